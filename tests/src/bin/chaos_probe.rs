//! The task of the chaos suite: see `tests::chaos::probe`.

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    std::process::exit(tests::chaos::probe::main(&args)?)
}
