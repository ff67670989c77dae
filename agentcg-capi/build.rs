//! Gives libagentcg.so its SONAME, which Rust leaves out. It changes with the ABI.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libagentcg.so.0");
}
