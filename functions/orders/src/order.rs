//! Orders: what a caller may send, what is kept.

use serde::{Deserialize, Serialize};

const ID_BYTES_MAX: usize = 64;
const CUSTOMER_CHARS_MAX: usize = 100;
const SKU_CHARS_MAX: usize = 64;
const ITEMS_MAX: usize = 100;
const QUANTITY_MAX: u32 = 10_000;
const PRICE_CENTS_MAX: u64 = 100_000_000;

/// An order as a caller sends it. Fields that are not known are left aside.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Draft {
    /// The caller's name for the order.
    pub id: Option<String>,
    customer: String,
    items: Vec<Item>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    sku: String,
    quantity: u32,
    price_cents: u64,
}

/// A checked order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Who ordered: 1 to 100 characters, no control characters.
    pub customer: String,
    items: Vec<Item>,
    /// The sum of all lines; at most 1e14, so that it never overflows.
    pub total_cents: u64,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Which field, as a JSON pointer in a URI fragment.
    pointer: String,
    /// What it must be.
    detail: String,
}

/// Why a body is no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftError {
    /// No JSON.
    Syntax(String),
    /// JSON, but not with the fields of an order.
    Shape(String),
    /// Fields out of their bounds.
    Faults(Vec<Fault>),
}

impl Draft {
    /// Reads JSON.
    ///
    /// # Errors
    /// [`DraftError::Syntax`] or [`DraftError::Shape`]
    pub fn parse(body: &[u8]) -> Result<Self, DraftError> {
        serde_json::from_slice(body).map_err(|error| {
            if error.is_data() { DraftError::Shape(error.to_string()) } else { DraftError::Syntax(error.to_string()) }
        })
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`DraftError::Faults`] with every fault there is.
    pub fn check(self) -> Result<Order, DraftError> {
        let mut faults = Faults::default();
        faults.unless(self.id.as_deref().is_none_or(is_id), "id", || {
            format!("1 to {ID_BYTES_MAX} of A-Z a-z 0-9 . _ -, not first . or -")
        });
        faults.unless(is_text(&self.customer, CUSTOMER_CHARS_MAX), "customer", || text(CUSTOMER_CHARS_MAX));
        faults.unless((1..=ITEMS_MAX).contains(&self.items.len()), "items", || format!("1 to {ITEMS_MAX} items"));
        for (n, item) in self.items.iter().enumerate().take(ITEMS_MAX) {
            let field = |name| format!("items/{n}/{name}");
            faults.unless(is_text(&item.sku, SKU_CHARS_MAX), &field("sku"), || text(SKU_CHARS_MAX));
            let quantity = (1..=QUANTITY_MAX).contains(&item.quantity);
            faults.unless(quantity, &field("quantity"), || format!("1 to {QUANTITY_MAX}"));
            let price = item.price_cents <= PRICE_CENTS_MAX;
            faults.unless(price, &field("price_cents"), || format!("0 to {PRICE_CENTS_MAX}"));
        }
        if !faults.0.is_empty() {
            return Err(DraftError::Faults(faults.0));
        }
        let total_cents = self.items.iter().map(|item| u64::from(item.quantity) * item.price_cents).sum();
        Ok(Order { id: self.id, customer: self.customer, items: self.items, total_cents })
    }
}

/// Tells whether `text` can be an order's id, and so a key and a path segment as it is.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= ID_BYTES_MAX
        && text.bytes().all(known)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_text(text: &str, chars_max: usize) -> bool {
    !text.trim().is_empty() && text.chars().count() <= chars_max && !text.contains(char::is_control)
}

fn text(chars_max: usize) -> String {
    format!("1 to {chars_max} characters, not only blanks, no control characters")
}

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn unless(&mut self, right: bool, field: &str, detail: impl FnOnce() -> String) {
        if !right {
            self.0.push(Fault { pointer: format!("#/{field}"), detail: detail() });
        }
    }
}
