//! The two steps around `go build`:
//!
//! - `bind WIT FOLDER` writes the Go bindings of the world `guest` into a folder;
//! - `link WIT MODULE COMPONENT` makes a component of the module that Go linked for WASI 0.1, with
//!   the adapter of wasmtime between the two versions.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bind", wit, folder] => bind(wit, Path::new(folder)),
        ["link", wit, module, component] => link(wit, module, component),
        _ => bail!("bind WIT FOLDER, or link WIT MODULE COMPONENT"),
    }
}

fn world(wit: &str) -> Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some("guest"))?;
    Ok((resolve, world))
}

fn bind(wit: &str, folder: &Path) -> Result<()> {
    let ((mut resolve, world), mut files) = (world(wit)?, Files::default());
    wit_bindgen_go::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    for (name, contents) in files.iter() {
        // The guest has one of its own.
        if name == "go.mod" {
            continue;
        }
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, contents)?;
    }
    Ok(())
}

fn link(wit: &str, module: &str, component: &str) -> Result<()> {
    let ((resolve, world), mut bytes) = (world(wit)?, fs::read(module)?);
    embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8, false)?;
    let mut encoder = ComponentEncoder::default();
    let encoder = encoder
        .validate(true)
        .module(&bytes)?
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    fs::write(component, encoder.encode()?)?;
    Ok(())
}
