//! Manifests: whatever the text, there is a manifest or a named error, and a
//! revision that is written and read again is the same revision.
#![no_main]

use faas_model::manifest::Manifest;
use faas_model::{Digest, FunctionSpec};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    let manifest = match Manifest::parse(text) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().trim().is_empty(), "an error that says nothing");
            return Corpus::Keep;
        }
    };
    let code = Digest::of(b"code");
    for source in manifest.functions.values() {
        let spec = source.spec();
        let canonical = spec.canonical();
        let again: FunctionSpec = serde_json::from_slice(&canonical).expect("canonical bytes can be read");
        assert_eq!(again, spec, "what is read is what was written");
        assert_eq!(again.canonical(), canonical, "one spelling");
        assert_eq!(again.revision_id(&code), spec.revision_id(&code));
        again.check().expect("what was in bounds stays so");
        again.check_with(&source.settings()).expect("what fits its settings still does");
    }
    let written = serde_json::to_string(&manifest).expect("a manifest is plain data");
    let again: Manifest = serde_json::from_str(&written).expect("a written manifest can be read");
    assert_eq!(again, manifest);
    Corpus::Keep
});
