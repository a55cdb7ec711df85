//! `faas build`: runs the build commands of a manifest on the author's machine.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use faas_model::Name;
use faas_model::manifest::{MANIFEST_BYTES_MAX, Manifest, Source};

use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "faas.toml";

/// Builds every function of the folder's manifest that has a build command.
pub(crate) fn run(dir: &Path) -> Outcome {
    let manifest = manifest(dir)?;
    for (name, source) in &manifest.functions {
        build(dir, name, source)?;
        output::line(name.as_str())?;
    }
    Ok(())
}

/// Builds one function and checks that its artefact is there.
pub(crate) fn build(dir: &Path, name: &Name, source: &Source) -> Outcome {
    if let Some(build) = &source.build {
        output::progress(&format!("{name}: {}", build.command));
        let mut command = Command::new("sh");
        command.arg("-c").arg(&build.command).current_dir(dir).stdin(Stdio::null());
        // A build may talk on its stdout; ours is for data.
        command.stdout(std::io::stderr());
        let status = command.status().map_err(|e| {
            Failure::new(Exit::Refused, format!("`sh` cannot be started: {e}"), "the build command needs a POSIX shell")
        })?;
        if !status.success() {
            let message = format!("the build of {name} failed ({status})");
            return Err(Failure::new(Exit::Refused, message, "the lines above are the build's own"));
        }
    }
    artefact(dir, name, source).map(|_| ())
}

/// Returns the path of a function's built component.
pub(crate) fn artefact(dir: &Path, name: &Name, source: &Source) -> Outcome<PathBuf> {
    let Some(file) = &source.source else {
        let message = format!("functions.{name} has no `source`");
        return Err(Failure::new(Exit::Data, message, "name the built component: source = \"path/of.wasm\""));
    };
    let path = dir.join(file);
    if path.is_file() {
        return Ok(path);
    }
    let message = format!("the component of {name} is not there: {}", path.display());
    Err(Failure::new(Exit::Data, message, "run `faas build`, or correct `source` in faas.toml"))
}

/// Reads the manifest of a folder.
pub(crate) fn manifest(dir: &Path) -> Outcome<Manifest> {
    let path = dir.join(MANIFEST);
    let read = || {
        let mut text = String::new();
        // One byte more than allowed, so that a larger file is seen as such.
        fs::File::open(&path)?.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    let text = read().map_err(|e| {
        let message = format!("{} cannot be read: {e}", path.display());
        Failure::new(Exit::Data, message, "name a folder with a faas.toml; `faas new NAME` makes one")
    })?;
    Manifest::parse(&text).map_err(|e| {
        let message = format!("{}: {e}", path.display());
        Failure::new(Exit::Data, message, "the keys are in docs/manifest.md")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(manifest: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), manifest).unwrap();
        dir
    }

    #[test]
    fn the_command_runs_in_the_folder_of_the_manifest() {
        let dir = folder("[functions.a]\nsource = \"a.wasm\"\nbuild = { command = \"echo built > a.wasm\" }\n");
        let manifest = manifest(dir.path()).unwrap();
        let (name, source) = manifest.functions.first_key_value().unwrap();
        assert_eq!(artefact(dir.path(), name, source).unwrap_err().exit, Exit::Data);
        build(dir.path(), name, source).unwrap();
        assert_eq!(artefact(dir.path(), name, source).unwrap(), dir.path().join("a.wasm"));
    }

    #[test]
    fn a_failing_build_or_a_missing_result_is_said() {
        for (command, message) in [("exit 3", "exit status: 3"), ("true", "is not there")] {
            let dir = folder(&format!("[functions.a]\nsource = \"a.wasm\"\nbuild = {{ command = \"{command}\" }}\n"));
            let failure = run(dir.path()).unwrap_err();
            assert!(failure.message.contains(message), "{failure}");
        }
    }

    #[test]
    fn a_bad_manifest_exits_with_65_and_names_the_nearest_key() {
        let dir = folder("[functions.a]\nlimts = {}\n");
        let failure = manifest(dir.path()).unwrap_err();
        assert_eq!(failure.exit, Exit::Data);
        assert!(failure.message.contains("did you mean `limits`?"), "{failure}");
        assert_eq!(manifest(&dir.path().join("missing")).unwrap_err().exit, Exit::Data);
    }
}
