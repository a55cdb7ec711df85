//! The state a function may reach: buckets and configuration.

#[allow(missing_docs, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({ path: "../wit", world: "faas:host/offers", generate_all });
}

use bindings::wasi::keyvalue::atomics::{self, Cas, CasError};
use bindings::wasi::keyvalue::batch;
use bindings::wasi::keyvalue::store::{self, Error};
use bindings::wasi::{config0_2_0_draft_2024_09_27 as draft, config0_2_0_rc_1 as rc};

pub(crate) fn run(path: &str, query: &str) -> String {
    match path {
        "/state/open" => store::open(query).map_or_else(|e| show(&e), |_| "open".into()),
        "/state/config" => format!(
            "{:?} {:?} {}",
            rc::store::get(query).ok(),
            draft::store::get(query).ok(),
            rc::store::get_all().map_or(0, |all| all.len())
        ),
        "/state/walk" => walk(query).unwrap_or_else(|e| show(&e)),
        "/state/increment" => increment(query).unwrap_or_else(|e| show(&e)),
        "/state/long-key" => long_key(query).unwrap_or_else(|e| show(&e)),
        "/state/fill" => fill(query).unwrap_or_else(|e| show(&e)),
        "/state/many" => many(query).unwrap_or_else(|e| show(&e)),
        "/state/handles" => handles(query).unwrap_or_else(|e| show(&e)),
        "/state/huge-value" => huge_value(query).unwrap_or_else(|e| show(&e)),
        "/state/flood" => flood(query).unwrap_or_else(|e| show(&e)),
        "/state/buckets" => buckets(),
        "/state/forge" => forge(query).unwrap_or_else(|e| show(&e)),
        "/state/read-loop" => read_loop(query).unwrap_or_else(|e| show(&e)),
        "/state/gets" => each(query, |bucket, key| bucket.get(key).map(drop)),
        "/state/puts" => each(query, |bucket, key| bucket.set(key, &[b'v'; VALUE_BYTES])),
        "/state/cursor" => cursor(query).unwrap_or_else(|e| show(&e)),
        _ => "unknown".into(),
    }
}

/// Bytes of a value that `/state/puts` writes.
const VALUE_BYTES: usize = 1024;
/// Operations of one call of `/state/gets` and `/state/puts`, and keys that they go round: so many that calls at the
/// same time hardly meet.
const EACH: u64 = 32;
const EACH_KEYS: u64 = 8_192;

/// Does one thing to `EACH` keys of `BUCKET/NUMBER`, one after the other; says how many microseconds each took.
fn each(query: &str, what: impl Fn(&store::Bucket, &str) -> Result<(), Error>) -> String {
    let (bucket, number) = query.split_once('/').unwrap_or((query, "0"));
    let first = number.parse::<u64>().unwrap_or(0).wrapping_mul(EACH);
    let all = || {
        let bucket = store::open(bucket)?;
        let took = (first..).take(EACH as usize).map(|n| {
            let begun = std::time::Instant::now();
            what(&bucket, &(n % EACH_KEYS).to_string())?;
            Ok(begun.elapsed().as_micros().to_string())
        });
        Ok(took.collect::<Result<Vec<_>, Error>>()?.join(","))
    };
    all().unwrap_or_else(|e| show(&e))
}

fn show(error: &Error) -> String {
    match error {
        Error::NoSuchStore => "no-such-store".into(),
        Error::AccessDenied => "access-denied".into(),
        Error::Other(text) => format!("other {text}"),
    }
}

/// Every operation once; the answer tells the first that is wrong.
fn walk(bucket: &str) -> Result<String, Error> {
    let bucket = store::open(bucket)?;
    let wrong = |what: &str| Ok(format!("wrong: {what}"));
    bucket.set("a", b"one")?;
    if bucket.get("a")?.as_deref() != Some(b"one") || !bucket.exists("a")? || bucket.exists("b")? {
        return wrong("get, exists");
    }
    bucket.delete("a")?;
    bucket.delete("a")?;
    if bucket.get("a")?.is_some() {
        return wrong("delete");
    }
    // A swap of a key that does not exist, then one that comes too late.
    let first = Cas::new(&bucket, "c")?;
    let late = Cas::new(&bucket, "c")?;
    if first.current()?.is_some() {
        return wrong("current of nothing");
    }
    atomics::swap(first, b"v1").map_err(store_error)?;
    let Err(CasError::CasFailed(now)) = atomics::swap(late, b"v2") else { return wrong("a late swap") };
    if now.current()?.as_deref() != Some(b"v1") {
        return wrong("the handle of a failed swap");
    }
    atomics::swap(now, b"v3").map_err(store_error)?;
    if bucket.get("c")?.as_deref() != Some(b"v3") {
        return wrong("swap");
    }
    if (atomics::increment(&bucket, "n", 5)?, atomics::increment(&bucket, "n", -7)?) != (5, -2) {
        return wrong("increment");
    }
    batch::set_many(&bucket, &[("x".into(), b"1".to_vec()), ("y".into(), b"2".to_vec())])?;
    let many = batch::get_many(&bucket, &["x".into(), "none".into(), "y".into()])?;
    let want = [("x".into(), Some(b"1".to_vec())), ("none".into(), None), ("y".into(), Some(b"2".to_vec()))];
    if many != want {
        return wrong("get-many");
    }
    batch::delete_many(&bucket, &["x".into(), "none".into()])?;
    let page = bucket.list_keys(None)?;
    if page.keys != ["c", "n", "y"] || page.cursor.is_some() {
        return Ok(format!("wrong: list-keys {:?}", page.keys));
    }
    Ok("right".into())
}

fn store_error(error: CasError) -> Error {
    match error {
        CasError::StoreError(error) => error,
        CasError::CasFailed(_) => Error::Other("the swap failed".into()),
    }
}

fn increment(bucket: &str) -> Result<String, Error> {
    Ok(atomics::increment(&store::open(bucket)?, "count", 1)?.to_string())
}

fn long_key(bucket: &str) -> Result<String, Error> {
    store::open(bucket)?.set(&"k".repeat(2000), b"v").map(|()| "set".into())
}

/// Writes one value as large as a value may be.
fn fill(bucket: &str) -> Result<String, Error> {
    store::open(bucket)?.set("big", &vec![b'x'; 1 << 20]).map(|()| "filled".into())
}

/// Reads the same large value a thousand times in one call.
fn many(bucket: &str) -> Result<String, Error> {
    let keys = vec!["big".to_owned(); 1000];
    batch::get_many(&store::open(bucket)?, &keys).map(|values| values.len().to_string())
}

/// Makes many handles to a large value, and says what an old one shows after a change.
fn handles(bucket: &str) -> Result<String, Error> {
    let bucket = store::open(bucket)?;
    let held = (0..400).map(|_| Cas::new(&bucket, "big")).collect::<Result<Vec<_>, _>>()?;
    bucket.set("big", b"changed")?;
    let Some(old) = held.into_iter().next() else { return Ok("none".into()) };
    let shown = old.current()?.map(|value| String::from_utf8_lossy(&value).into_owned());
    let swapped = atomics::swap(old, b"late").is_ok();
    Ok(format!("{shown:?} {swapped}"))
}

fn cursor(bucket: &str) -> Result<String, Error> {
    store::open(bucket)?.list_keys(Some("nonsense")).map(|_| "listed".into())
}

fn huge_value(bucket: &str) -> Result<String, Error> {
    store::open(bucket)?.set("huge", &vec![b'x'; 4 << 20]).map(|()| "set".into())
}

/// Writes until the call is ended.
fn flood(bucket: &str) -> Result<String, Error> {
    let bucket = store::open(bucket)?;
    for n in 0_u64.. {
        bucket.set(&format!("flood-{}", n % 16), &[b'x'; 1024])?;
    }
    Ok("flooded".into())
}

/// Asks for buckets of all kinds of names, and says how many were opened.
fn buckets() -> String {
    let odd = ["", ".", "..", "../ledger", "default/ledger", "ledger\0", "LEDGER", "a/../ledger"];
    let opened = odd.iter().filter(|name| store::open(name).is_ok()).count();
    (0..5000).filter(|n| store::open(&format!("bucket-{n}")).is_ok()).count().saturating_add(opened).to_string()
}

/// Lists with cursors that were never given out, and says how many foreign keys were seen.
fn forge(bucket: &str) -> Result<String, Error> {
    let bucket = store::open(bucket)?;
    bucket.set("own", b"1")?;
    let name: String = b"ledger".iter().map(|byte| format!("{byte:02x}")).collect();
    let forged = ["00", "ff", "0000000000000000", "ffffffffffffffff", &name, &format!("{name}00"), &"00".repeat(2048)];
    let mut foreign = 0;
    for cursor in forged {
        if let Ok(page) = bucket.list_keys(Some(cursor)) {
            foreign += page.keys.iter().filter(|key| *key == "count").count();
        }
    }
    Ok(format!("foreign {foreign}"))
}

/// Reads a large value until the call is ended.
fn read_loop(bucket: &str) -> Result<String, Error> {
    let bucket = store::open(bucket)?;
    bucket.set("big", &vec![b'x'; 1 << 20])?;
    loop {
        core::hint::black_box(bucket.get("big")?);
    }
}
