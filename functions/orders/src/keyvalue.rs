//! The store of the host, through `wasi:keyvalue` 0.2.0-draft2.

wit_bindgen::generate!({ world: "state", path: "wit", generate_all });

use wasi::keyvalue::atomics::{Cas, CasError, swap};
use wasi::keyvalue::batch;
use wasi::keyvalue::store::{self, Error};

use crate::state::{Bucket, Page, State, StateError};

/// How often a creation is tried when the key is deleted and created by others meanwhile.
const CREATE_TRIES: u32 = 4;

/// The host's buckets.
#[derive(Debug, Clone, Copy)]
pub struct Host;

/// Returns an id that nobody else has.
pub fn random_id() -> String {
    use wasip2::random::random::get_random_u64;
    format!("{:016x}{:016x}", get_random_u64(), get_random_u64())
}

fn open(bucket: Bucket) -> Result<store::Bucket, StateError> {
    store::open(bucket.name()).map_err(|error| state_error(bucket, error))
}

fn state_error(bucket: Bucket, error: Error) -> StateError {
    match error {
        Error::NoSuchStore | Error::AccessDenied => StateError::NotGranted(bucket),
        Error::Other(why) => StateError::Unavailable(why),
    }
}

impl State for Host {
    fn get(&self, bucket: Bucket, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        open(bucket)?.get(key).map_err(|error| state_error(bucket, error))
    }

    fn create(&self, bucket: Bucket, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let failed = |error| state_error(bucket, error);
        let opened = open(bucket)?;
        let mut cas = Cas::new(&opened, key).map_err(failed)?;
        for _ in 0..CREATE_TRIES {
            // A swap would also replace a value that is already there.
            if let Some(present) = cas.current().map_err(failed)? {
                return Ok(Some(present));
            }
            match swap(cas, value) {
                Ok(()) => return Ok(None),
                Err(CasError::StoreError(error)) => return Err(failed(error)),
                Err(CasError::CasFailed(newer)) => cas = newer,
            }
        }
        Err(StateError::Unavailable("the key is created and deleted all the time".to_owned()))
    }

    fn keys(&self, bucket: Bucket, from: Option<&str>) -> Result<Page, StateError> {
        let page = open(bucket)?.list_keys(from).map_err(|error| state_error(bucket, error))?;
        Ok(Page { keys: page.keys, next: page.cursor })
    }

    fn get_many(&self, bucket: Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let found = batch::get_many(&open(bucket)?, keys).map_err(|error| state_error(bucket, error))?;
        Ok(found.into_iter().map(|(_, value)| value).collect())
    }
}
