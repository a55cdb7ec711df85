//! Turns: who changes a function while several processes share the records.

use std::collections::BTreeSet;

use faas_model::manifest::RuntimeKind;
use faas_model::{Digest, FunctionName};
use faas_store::{Version, WriteId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The right to change one function. While it is open nobody else changes any function, so that
/// what was checked before the change still holds when it is made.
///
/// Whoever keeps it longer than `repo.turn_max` loses it: the change can then no longer take effect.
/// Where no other process shares the records it is nothing but a name.
#[derive(Debug)]
#[must_use = "others wait until it is ended"]
pub struct Turn {
    function: FunctionName,
    pub(crate) shared: Option<Held>,
}

/// A turn that other processes know of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    /// The id of the write that is to be made: who settles it ends the turn.
    pub(crate) id: WriteId,
    /// The version of the journal's head that says so.
    pub(crate) head: Version,
    /// How many changes were recorded before it.
    pub(crate) last: u64,
}

impl Coming {
    /// Returns what a process foretells.
    #[must_use]
    pub fn new(number: u64, runtime: RuntimeKind, code: Digest, by: Uuid) -> Self {
        Self { number, runtime, code, by }
    }
}

impl Turn {
    pub(crate) fn new(function: FunctionName, shared: Option<Held>) -> Self {
        Self { function, shared }
    }

    /// Returns the function that may be changed.
    #[must_use]
    pub fn function(&self) -> &FunctionName {
        &self.function
    }

    /// Returns the id that the write of the change must have.
    pub(crate) fn write_id(&self) -> WriteId {
        self.shared.map_or_else(WriteId::fresh, |held| held.id)
    }
}

/// Code that another process may publish soon: whoever makes it ready now need not do it then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coming {
    /// Larger than those of all that were foretold before.
    pub number: u64,
    /// What will run it.
    pub runtime: RuntimeKind,
    /// The code.
    pub code: Digest,
    /// The process that said so.
    pub(crate) by: Uuid,
}

/// What other processes changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    /// How many changes were recorded; what to ask with the next time.
    pub upto: u64,
    /// The functions that were changed.
    pub changed: BTreeSet<FunctionName>,
    /// The one that is being changed now.
    pub open: Option<FunctionName>,
    /// The code that was foretold lately, in the order of numbers.
    pub coming: Vec<Coming>,
    /// Whether there may be more, of which the record is gone.
    pub lost: bool,
}
