//! Compiles bpf/shares.h, as the scheduler has it, for this machine.

fn main() {
    println!("cargo:rerun-if-changed=../../bpf/shares.h");
    cc::Build::new().file("shares.c").include("../../bpf").compile("shares");
}
