//! The one store that is chosen.

use std::sync::Arc;

use faas_cassandra::Cassandra;
use faas_control::StoreStatus;
use faas_data_folder::DataFolder;
use faas_repo::FolderRepo;
use faas_store::{Cached, Embedded, Store, WallClock};
use futures_util::FutureExt;
use futures_util::future::ready;

use super::parts::cannot;
use crate::failure::{Exit, Failure, Outcome};
use crate::settings::{Settings, StoreType};

/// The store, and what is to be closed of it.
pub(super) struct Opened {
    pub(super) store: Arc<dyn Store>,
    /// What clients are told of it.
    pub(super) name: &'static str,
    /// How it is.
    pub(super) status: StoreStatus,
    embedded: Option<Arc<Embedded>>,
}

impl Opened {
    /// Opens the store of the settings.
    pub(super) async fn open(settings: &Settings, data: &DataFolder) -> Outcome<Self> {
        match settings.store.kind {
            StoreType::Embedded => {
                let opened = Embedded::open_to_read_once(&data.file("store.redb"), settings.embedded.clone());
                let embedded = opened
                    .map(Arc::new)
                    .map_err(|e| cannot("the store", &e, "check the disk and the owner of the data folder"))?;
                let asked = embedded.clone();
                let status: StoreStatus = Arc::new(move || ready(serde_json::json!(asked.status())).boxed());
                Ok(Self { store: embedded.clone(), name: "embedded", status, embedded: Some(embedded) })
            }
            StoreType::Cassandra => {
                let (config, clock) = (&settings.cassandra, WallClock::system());
                let opened = Cassandra::open(config, clock.clone()).await;
                let cassandra = opened
                    .map_err(|e| cannot("the store", &e, "see the keys of [cassandra] in `faas config --reference`"))?;
                let cassandra = Arc::new(cassandra);
                let asked = cassandra.clone();
                let status: StoreStatus = Arc::new(move || {
                    let asked = asked.clone();
                    async move { serde_json::json!(asked.status().await) }.boxed()
                });
                let bytes_max = usize::try_from(config.cache_bytes_max.0).unwrap_or(usize::MAX);
                let store = Cached::new(cassandra, clock, config.cache_age_max.duration(), bytes_max);
                Ok(Self { store: Arc::new(store), name: "cassandra", status, embedded: None })
            }
        }
    }

    /// Returns whether other processes may use the store too.
    pub(super) fn shared(&self) -> bool {
        self.embedded.is_none()
    }

    /// Opens the code repository over it.
    pub(super) async fn repo(&self, settings: &Settings, data: &DataFolder) -> Outcome<FolderRepo> {
        let repo = FolderRepo::open(data.folder("blobs")?, settings.repo.clone(), self.store.clone()).await;
        let hint = "check the disk and the owner of the data folder";
        let repo = repo.map_err(|e| cannot("the code repository", &e, hint))?;
        Ok(if self.shared() { repo.sharing(self.store.clone(), WallClock::system()) } else { repo })
    }

    /// Gives back what a start read into memory: most functions are not called soon.
    pub(super) async fn forget_pages(&self) {
        if let Some(embedded) = &self.embedded {
            embedded.forget_pages().await;
        }
    }

    /// Ends what runs in this process for it.
    pub(super) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
    }
}

/// Brings the schema of the cluster to the version of this program.
pub(crate) async fn migrate(settings: Settings) -> Outcome {
    if settings.store.kind != StoreType::Cassandra {
        let message = "the embedded store has no schema to migrate";
        return Err(Failure::new(Exit::Usage, message, "set store.type = \"cassandra\", and see docs/cassandra.md"));
    }
    let done = faas_cassandra::migrate(&settings.cassandra).await;
    let done = done.map_err(|e| cannot("the store", &e, "see the keys of [cassandra] in `faas config --reference`"))?;
    crate::output::line(&if done.from == done.to {
        format!("keyspace {} has schema {} already", settings.cassandra.keyspace, done.to)
    } else {
        format!("keyspace {} has schema {} now, it had {}", settings.cassandra.keyspace, done.to, done.from)
    })
}
