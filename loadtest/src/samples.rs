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
    write(folder, name, &component(sample)?, lines)
}

fn write(folder: &Path, name: &str, component: &Path, lines: &str) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::copy(component, folder.join("code.wasm"))?;
    std::fs::write(folder.join("faas.toml"), format!("[functions.{name}]\nsource = \"code.wasm\"\n{lines}\n"))?;
    Ok(())
}

/// Makes the code of a manifest that [`manifest`] wrote unlike any other, by a custom section with `mark`.
///
/// # Errors
/// When the file cannot be written.
pub fn mark(folder: &Path, mark: u64) -> Result<()> {
    use std::io::Write as _;
    let mut section = vec![0, 13, 4];
    section.extend_from_slice(b"mark");
    section.extend_from_slice(&mark.to_le_bytes());
    Ok(std::fs::File::options().append(true).open(folder.join("code.wasm"))?.write_all(&section)?)
}

/// Builds the guest on trial of the Wasm runtime's tests, whose paths are ways to behave; returns its component.
///
/// # Errors
/// When it does not build.
pub fn trial() -> Result<PathBuf> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtimes/wasm/guests");
    let mut cargo = std::process::Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", "wasm32-wasip2", "--target-dir", "target"]);
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    if !cargo.current_dir(&guests).status()?.success() {
        bail!("the guest on trial does not build in {} (run `make setup`)", guests.display());
    }
    Ok(guests.join("target/wasm32-wasip2/release/trial.wasm"))
}

/// Returns the component of a guest that other people's tools make (`deploy/guests.sh`).
///
/// # Errors
/// When it was not built.
pub fn foreign(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(name).join("target/guest.wasm");
    if !path.exists() {
        bail!("{} is missing: run `deploy/guests.sh {name}` first", path.display());
    }
    Ok(path)
}

/// Writes a manifest as [`manifest`] does, with a guest of [`foreign`] for code.
///
/// # Errors
/// When it was not built or a file cannot be written.
pub fn foreign_manifest(folder: &Path, name: &str, lines: &str) -> Result<()> {
    write(folder, name, &foreign(name)?, lines)
}

/// Writes a manifest as [`manifest`] does, with the guest on trial for code.
///
/// # Errors
/// When it does not build or a file cannot be written.
pub fn trial_manifest(folder: &Path, name: &str, lines: &str) -> Result<()> {
    write(folder, name, &trial()?, lines)
}
