//! The binary: `program.rs` of the library says what it does, and why there.

fn main() -> std::process::ExitCode {
    icestream::program::main()
}
