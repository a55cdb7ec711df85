//! Where the sample functions and this crate's own guest are, and small manifests made on the spot.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The guest that takes memory, computation and time as it is told.
pub const WORK: &str = "work";

/// Returns the folder of a sample function.
#[must_use]
pub fn folder(name: &str) -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    if name == WORK { own.join("guests").join(name) } else { own.join("../functions").join(name) }
}

/// Returns the built component of a sample.
///
/// # Errors
/// When it was not built.
pub fn component(name: &str) -> Result<PathBuf> {
    let path = folder(name).join(format!("target/wasm32-wasip2/release/{name}.wasm"));
    if !path.exists() {
        bail!("{} is missing: run `make samples` first", path.display());
    }
    Ok(path)
}

/// Writes a manifest for `name` with the component of sample `sample` and `lines` of settings into `folder`.
///
/// # Errors
/// When a file cannot be written or the sample was not built.
pub fn manifest(folder: &Path, name: &str, sample: &str, lines: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::copy(component(sample)?, folder.join("code.wasm"))?;
    std::fs::write(folder.join("faas.toml"), format!("[functions.{name}]\nsource = \"code.wasm\"\n{lines}\n"))?;
    Ok(())
}
