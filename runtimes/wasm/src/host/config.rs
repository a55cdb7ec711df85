//! `wasi:config/store`: the function's `env`, at the two versions in use.

use super::bindings::wasi::{config0_2_0_draft_2024_09_27 as draft, config0_2_0_rc_1 as rc};
use crate::state::State;

/// Both versions have the same interface, and bindings of their own.
macro_rules! store {
    ($version:ident) => {
        impl $version::store::Host for State {
            async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, $version::store::Error>> {
                Ok(Ok(self.env.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())))
            }

            async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, $version::store::Error>> {
                Ok(Ok(self.env.to_vec()))
            }
        }
    };
}

store!(rc);
store!(draft);
