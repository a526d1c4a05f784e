//! Makes a new migration known to the compiler, which sees only the files that were there before.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
