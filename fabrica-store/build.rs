//! The migrations are embedded: a new one has to build the crate anew.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
