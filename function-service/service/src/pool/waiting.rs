//! Waiting calls: served in the order of arrival, refused in the order of deadlines.

use std::collections::{BTreeMap, BTreeSet};

use super::{Ticket, Time};

/// Every call has one entry in each map.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    arrivals: BTreeMap<Ticket, Time>,
    deadlines: BTreeSet<(Time, Ticket)>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.arrivals.len()
    }

    pub(super) fn first(&self) -> Option<Ticket> {
        self.arrivals.keys().next().copied()
    }

    pub(super) fn last(&self) -> Option<Ticket> {
        self.arrivals.keys().next_back().copied()
    }

    pub(super) fn first_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    #[cfg(test)]
    pub(super) fn deadline(&self, ticket: Ticket) -> Option<Time> {
        self.arrivals.get(&ticket).copied()
    }

    pub(super) fn push(&mut self, ticket: Ticket, deadline: Time) {
        self.arrivals.insert(ticket, deadline);
        self.deadlines.insert((deadline, ticket));
    }

    pub(super) fn remove(&mut self, ticket: Ticket) {
        if let Some(deadline) = self.arrivals.remove(&ticket) {
            self.deadlines.remove(&(deadline, ticket));
        }
    }

    /// Brings every later deadline forward to `latest`.
    pub(super) fn shorten(&mut self, latest: Time) {
        let late = self.deadlines.split_off(&(latest, Ticket(u64::MAX)));
        for (_, ticket) in late {
            self.push(ticket, latest);
        }
    }

    /// Removes the calls whose deadline is over.
    pub(super) fn expire(&mut self, now: Time, mut each: impl FnMut(Ticket)) {
        while let Some((deadline, ticket)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.remove(ticket);
            each(ticket);
        }
    }

    /// Removes all calls, in the order of arrival.
    pub(super) fn drain(&mut self, mut each: impl FnMut(Ticket)) {
        self.deadlines.clear();
        while let Some((ticket, _)) = self.arrivals.pop_first() {
            each(ticket);
        }
    }

    /// Returns whether both maps hold the same calls.
    #[cfg(test)]
    pub(super) fn consistent(&self) -> bool {
        self.arrivals.len() == self.deadlines.len()
            && self.arrivals.iter().all(|(ticket, deadline)| self.deadlines.contains(&(*deadline, *ticket)))
    }
}
