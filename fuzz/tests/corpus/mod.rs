//! The inputs that are committed beside a target.

/// Checks each of them. The fuzzer's own replay is silent about a folder that it does not find.
pub(crate) fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = format!("{}/tests/__fuzz__/{target}/corpus", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        check(&std::fs::read(file.unwrap().path()).unwrap());
        seen += 1;
    }
    assert!(seen >= 20, "{seen} inputs in {folder}");
}
