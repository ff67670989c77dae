//! Compiles the BPF program of a policy that memory protection is compared with, and what a call is
//! compared with.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=src/floor.c");
    cc::Build::new().file("src/floor.c").std("gnu99").warnings_into_errors(true).compile("floor");
    let source = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("bpf/fixed.bpf.c");
    scx_cargo::BpfBuilder::new()
        .and_then(|mut b| {
            b.add_cflag("-fms-extensions")
                .add_cflag("-Wno-microsoft-anon-tag")
                .add_cflag("-Werror")
                .enable_skel(&source.display().to_string(), "fixed")
                .build()
        })
        .unwrap_or_else(|e| panic!("bpf/fixed.bpf.c: {e:?}"));
}
