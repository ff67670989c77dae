//! The checked-in C header is the one that the sources give.

use std::path::Path;

#[test]
fn the_header_is_current() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = here.join("../include/agentcg.h");
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    let mut new = Vec::new();
    cbindgen::Builder::new()
        .with_crate(here)
        .with_config(config)
        .generate()
        .unwrap()
        .write(&mut new);
    let new = String::from_utf8(new).unwrap();
    if std::env::var_os("AGENTCG_UPDATE_HEADER").is_some() {
        std::fs::write(&header, &new).unwrap();
    }
    let old = std::fs::read_to_string(&header).unwrap_or_default();
    assert!(
        old == new,
        "include/agentcg.h is stale; AGENTCG_UPDATE_HEADER=1 cargo test -p agentcg-capi writes it anew"
    );
}
