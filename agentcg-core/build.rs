//! Compiles the BPF programs in `bpf/` with `$BPF_CLANG` and generates their Rust bindings.

use std::env;
use std::path::PathBuf;

fn main() {
    for part in ["memory", "process", "scheduler"] {
        let source = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("bpf");
        let file = |end: &str| source.join(format!("{part}{end}")).display().to_string();
        let out = env::var("OUT_DIR").unwrap();
        scx_cargo::BpfBuilder::new()
            .and_then(|mut b| {
                // No path of this machine in the objects.
                b.add_cflag(&format!("-ffile-prefix-map={out}=."))
                    .add_cflag(&format!("-ffile-prefix-map={}=bpf", source.display()))
                    .add_cflag("-fms-extensions")
                    .add_cflag("-Wno-microsoft-anon-tag")
                    .add_cflag("-Werror")
                    .enable_intf(&file(".h"), &format!("{part}_intf.rs"))
                    .enable_skel(&file(".bpf.c"), part)
                    .build()
            })
            .unwrap_or_else(|e| panic!("bpf/{part}.bpf.c: {e:?}"));
        println!("cargo:rerun-if-changed={}", file(".h"));
    }
    for more in ["scheduler", "shares.h", "types.h"] {
        println!("cargo:rerun-if-changed=bpf/{more}");
    }
}
