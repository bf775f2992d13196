//! The binary `informer`: the command line of the library.

fn main() -> std::process::ExitCode {
    informer::cli::main()
}
