//! Writes the files in `deploy/` that follow from the list of metrics: `cargo run -p kcl-tests --bin deploy-files`.

use std::io;
use std::path::Path;

use kcl_tests::deploy::files;

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for file in files() {
        std::fs::write(root.join(file.path), file.content)?;
        println!("{}", file.path);
    }
    Ok(())
}
