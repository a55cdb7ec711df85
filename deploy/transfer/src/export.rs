//! Writing everything down.

use std::collections::BTreeSet;

use bytes::Bytes;
use faas_model::{Digest, Hasher, Name};
use faas_repo::CodeRepo;
use faas_store::{PATIENCE, Page, Partition, Space, Store};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use crate::line::{Base64, FORMAT, Line, Row};
use crate::{Tally, TransferError};

/// Bytes of a piece of code.
const PIECE: usize = 256 << 10;
/// Partitions read at once.
const AT_ONCE: usize = 32;
/// What is moved, in this order: revisions and aliases before the state they work on.
const SPACES: [Space; 2] = [Space::Catalog, Space::Value];

/// Writes everything to `out`. It is one moment's state only where nobody writes meanwhile.
///
/// # Errors
/// [`TransferError`]; what was written so far has no last line and is refused by an import.
pub async fn export(
    store: &dyn Store,
    repo: &dyn CodeRepo,
    out: &mut (dyn AsyncWrite + Unpin + Send),
) -> Result<Tally, TransferError> {
    let mut sheet = Sheet { out, lines: 0, hasher: Hasher::default() };
    let mut tally = Tally::default();
    sheet.put(&Line::Head { format: FORMAT }).await?;
    let namespaces = repo.namespaces().await?;
    for code in codes(repo, &namespaces).await? {
        put_code(repo, &code, &mut sheet).await?;
        tally.codes += 1;
    }
    for namespace in &namespaces {
        for space in SPACES {
            tally.rows += put_space(store, namespace, space, &mut sheet).await?;
        }
    }
    let (lines, digest) = (sheet.lines, std::mem::take(&mut sheet.hasher).finish());
    sheet.put(&Line::End { lines, digest }).await?;
    sheet.out.flush().await?;
    Ok(tally)
}

/// Lists the code of all revisions.
async fn codes(repo: &dyn CodeRepo, namespaces: &[Name]) -> Result<BTreeSet<Digest>, TransferError> {
    let mut codes = BTreeSet::new();
    for namespace in namespaces {
        for record in repo.list(namespace).await? {
            codes.extend(repo.revisions(&record.function).await?.iter().map(|revision| revision.code));
        }
    }
    Ok(codes)
}

async fn put_code(repo: &dyn CodeRepo, code: &Digest, sheet: &mut Sheet<'_>) -> Result<(), TransferError> {
    let mut file = tokio::fs::File::open(repo.fetch(code).await?).await?;
    sheet.put(&Line::Code { digest: *code, bytes: file.metadata().await?.len() }).await?;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut file).take(PIECE as u64).read_to_end(&mut piece).await?;
        if piece.is_empty() {
            return Ok(());
        }
        sheet.put(&Line::Piece { data: Base64(piece.into()) }).await?;
    }
}

async fn put_space(
    store: &dyn Store,
    namespace: &Name,
    space: Space,
    sheet: &mut Sheet<'_>,
) -> Result<u64, TransferError> {
    let (mut rows, mut after) = (0, None);
    loop {
        let page = Page { after, rows_max: 1_000, bytes_max: 4 << 20 };
        let slice = store.partitions(namespace, space, b"", page, Instant::now() + PATIENCE).await?;
        let of = |name| Partition { namespace: namespace.clone(), space, name };
        let moved = slice.items.into_iter().filter(|name| !faas_repo::stays_behind(space, name)).map(of);
        let each: Vec<_> = moved.map(|partition| read(store, partition)).collect();
        let mut each = stream::iter(each).buffered(AT_ONCE);
        while let Some(partition) = each.try_next().await? {
            for row in partition {
                sheet.put(&Line::Row(row)).await?;
                rows += 1;
            }
        }
        after = slice.next;
        if after.is_none() {
            return Ok(rows);
        }
    }
}

async fn read(store: &dyn Store, partition: Partition) -> Result<Vec<Row>, TransferError> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = Page { after, rows_max: 500, bytes_max: 4 << 20 };
        let slice = store.scan(&partition, Bytes::new()..Bytes::new(), page, Instant::now() + PATIENCE).await?;
        rows.extend(slice.items.into_iter().map(|row| Row {
            namespace: partition.namespace.clone(),
            space: partition.space,
            partition: Base64(partition.name.clone()),
            sort: Base64(row.sort),
            value: Base64(row.value),
            expires_ms: row.expires.map(|at| at.0),
        }));
        after = slice.next;
        if after.is_none() {
            return Ok(rows);
        }
    }
}

/// Where lines are written, and what was.
struct Sheet<'a> {
    out: &'a mut (dyn AsyncWrite + Unpin + Send),
    lines: u64,
    hasher: Hasher,
}

impl Sheet<'_> {
    async fn put(&mut self, line: &Line) -> Result<(), TransferError> {
        let mut text = serde_json::to_vec(line).map_err(std::io::Error::from)?;
        text.push(b'\n');
        self.hasher.update(&text);
        self.lines += 1;
        Ok(self.out.write_all(&text).await?)
    }
}
