//! Writes right inputs for each target into `DIR/TARGET/`: where the fuzzer begins.

fn main() -> std::io::Result<()> {
    let corpus = std::path::PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "corpus".into()));
    for target in tests::fuzz::TARGETS {
        let dir = corpus.join(target.name);
        std::fs::create_dir_all(&dir)?;
        for (number, seed) in (0..).zip((target.seeds)()) {
            std::fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
        println!("{}", target.name);
    }
    Ok(())
}
