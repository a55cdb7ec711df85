//! What every consumer does right now, for people who ask.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use faas_model::{FunctionName, Name};

/// One consumer: the queue of a broker that feeds a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId {
    /// The function that is fed.
    pub function: FunctionName,
    /// The broker's name in the server configuration.
    pub broker: Name,
    /// The work queue.
    pub queue: String,
}

/// What a consumer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Connects, declares and subscribes.
    Connecting,
    /// Messages are delivered.
    Consuming,
    /// The broker cannot be reached or refused; tried again by itself.
    Waiting {
        /// What the broker or the network said.
        detail: String,
    },
    /// The configuration names no such broker.
    UnknownBroker,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Consuming => f.write_str("consuming"),
            Self::Waiting { detail } => write!(f, "waiting: {detail}"),
            Self::UnknownBroker => f.write_str("unknown broker"),
        }
    }
}

/// The states of all consumers; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct StatusBoard(Arc<Mutex<BTreeMap<ConsumerId, State>>>);

impl StatusBoard {
    /// Returns the state of every consumer.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(ConsumerId, State)> {
        self.lock().iter().map(|(id, state)| (id.clone(), state.clone())).collect()
    }

    /// Returns the states of one function's consumers.
    #[must_use]
    pub fn of(&self, function: &FunctionName) -> Vec<(ConsumerId, State)> {
        self.lock().iter().filter(|(id, _)| id.function == *function).map(|(i, s)| (i.clone(), s.clone())).collect()
    }

    /// Sets a state; returns whether it is another one than before.
    pub(super) fn set(&self, id: &ConsumerId, state: State) -> bool {
        self.lock().insert(id.clone(), state.clone()) != Some(state)
    }

    pub(super) fn retain(&self, keep: impl Fn(&ConsumerId) -> bool) {
        self.lock().retain(|id, _| keep(id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ConsumerId, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
