//! Totals, folded from the records each time they are asked for.
//!
//! Never more than [`BATCH`] records are held at once.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::ledger::sum_of;
use crate::state::{Bucket, State, StateError};

/// Most customers that are listed; all are counted.
const CUSTOMERS_LISTED_MAX: usize = 1000;
const BATCH: usize = 500;

/// A number of orders and their worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Orders.
    pub count: u64,
    /// Their worth; 128 bits, so that no number of orders overflows it.
    pub revenue_cents: u128,
}

impl Sum {
    fn add(&mut self, cents: u64) {
        self.count += 1;
        self.revenue_cents += u128::from(cents);
    }
}

/// The totals of everything recorded.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// All orders.
    #[serde(flatten)]
    pub all: Sum,
    /// Those taken by HTTP, once per order id.
    pub http: Sum,
    /// Those taken by message, once per event id.
    pub amqp: Sum,
    /// How many customers there are.
    pub customers: usize,
    /// The customers with the largest revenue, at most 1000.
    pub by_customer: BTreeMap<String, Sum>,
    /// Values in the buckets that are no records of this application.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreadable: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Folds every record; with `customer`, only that one is listed.
///
/// # Errors
/// [`StateError`]
pub fn totals(state: &dyn State, customer: Option<&str>) -> Result<Totals, StateError> {
    let mut totals = Totals::default();
    let mut unreadable = 0;
    for bucket in [Bucket::Orders, Bucket::Events] {
        each_record(state, bucket, |record| {
            let Some((cents, customer)) = sum_of(record) else {
                unreadable += 1;
                return;
            };
            match bucket {
                Bucket::Orders => totals.http.add(cents),
                Bucket::Events => totals.amqp.add(cents),
            }
            totals.all.add(cents);
            // Most records are of a customer who is known: look before making a key.
            match totals.by_customer.get_mut(customer) {
                Some(sum) => sum.add(cents),
                None => totals.by_customer.entry(customer.to_owned()).or_default().add(cents),
            }
        })?;
    }
    totals.unreadable = unreadable;
    totals.customers = totals.by_customer.len();
    match customer {
        Some(customer) => totals.by_customer.retain(|name, _| name == customer),
        None => keep_largest(&mut totals.by_customer, CUSTOMERS_LISTED_MAX),
    }
    Ok(totals)
}

fn each_record(state: &dyn State, bucket: Bucket, mut each: impl FnMut(&[u8])) -> Result<(), StateError> {
    let mut from = None;
    loop {
        let page = state.keys(bucket, from.as_deref())?;
        for keys in page.keys.chunks(BATCH) {
            // A key that was deleted meanwhile has no value.
            state.get_many(bucket, keys)?.iter().flatten().for_each(|record| each(record));
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}

fn keep_largest(by_customer: &mut BTreeMap<String, Sum>, most: usize) {
    if by_customer.len() > most {
        let mut all: Vec<_> = std::mem::take(by_customer).into_iter().collect();
        all.sort_by_key(|(_, sum)| Reverse(sum.revenue_cents));
        all.truncate(most);
        by_customer.extend(all);
    }
}
