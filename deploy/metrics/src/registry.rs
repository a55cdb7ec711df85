//! Every series there is, and which functions have series of their own.
//!
//! A function's series live as long as somebody holds their handles. Who is told
//! is decided when somebody looks: those told before stay while they are deployed;
//! a free place, or that of one idle for [`Config::function_idle`](crate::Config), goes to whoever counted
//! most since the last look. What the others counted is moved to `_other` then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use metrics::{Key, Label};
use tokio::time::Instant;

use crate::cell::{Cell, Kind, Value};
use crate::{Config, OTHER};

/// The label that tells functions apart.
pub(crate) const FUNCTION: &str = "function";

/// The series of one name and one set of labels, the function left out.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) labels: Vec<(String, String)>,
}

/// A place in the list of families.
type FamilyId = usize;

/// What the series of one family hold, by function.
type Series = Vec<(Option<Arc<str>>, Value)>;

/// Everything that is told at one look.
pub(crate) struct Told {
    pub(crate) helps: HashMap<String, String>,
    /// By name, then by labels.
    pub(crate) series: Vec<(Arc<Family>, Series)>,
}

pub(crate) struct Registry {
    functions_max: usize,
    function_idle: Duration,
    families: Vec<Arc<Family>>,
    by_name: HashMap<String, Vec<FamilyId>>,
    helps: HashMap<String, String>,
    /// Series that belong to no function.
    own: BTreeMap<FamilyId, Cell>,
    functions: HashMap<Arc<str>, Function>,
    /// What functions counted while they were not told.
    other: BTreeMap<FamilyId, Value>,
}

/// The series of one function.
struct Function {
    cells: Vec<(FamilyId, Cell)>,
    told: bool,
    /// Events at the last look.
    events: u64,
    /// Events between the last two looks.
    gained: u64,
    /// The last look that saw a difference, or an instance.
    active: Option<Instant>,
}

impl Function {
    fn new() -> Self {
        Self { cells: Vec::new(), told: false, events: 0, gained: 0, active: None }
    }

    fn look(&mut self, now: Instant) {
        let events = self.cells.iter().map(|(_, cell)| cell.events()).sum();
        self.gained = u64::wrapping_sub(events, self.events);
        self.events = events;
        if self.gained > 0 || self.cells.iter().any(|(_, cell)| cell.stands()) {
            self.active = Some(now);
        }
    }

    fn is_idle(&self, now: Instant, after: Duration) -> bool {
        self.active.is_none_or(|active| now.saturating_duration_since(active) >= after)
    }

    /// Ends its series; should they come back, they begin at 0.
    fn hide(&mut self) {
        self.told = false;
        self.drain(|_, _| {});
    }

    fn drain(&mut self, mut into: impl FnMut(FamilyId, Value)) {
        for (family, cell) in &self.cells {
            into(*family, cell.take());
        }
        self.events = 0;
    }
}

impl Registry {
    pub(crate) fn new(config: &Config) -> Self {
        let mut registry = Self {
            functions_max: config.functions_max.min(100_000) as usize,
            function_idle: config.function_idle.duration(),
            families: Vec::new(),
            by_name: HashMap::new(),
            helps: HashMap::new(),
            own: BTreeMap::new(),
            functions: HashMap::new(),
            other: BTreeMap::new(),
        };
        registry.describe("faas_metrics_functions", "Functions with series of their own; the others are `_other`.");
        registry.describe("faas_metrics_functions_max", "Functions with series of their own at most.");
        registry.set("faas_metrics_functions_max", registry.functions_max);
        registry
    }

    #[cfg(test)]
    pub(crate) fn functions(&self) -> usize {
        self.functions.len()
    }

    pub(crate) fn describe(&mut self, name: &str, help: &str) {
        self.helps.insert(name.to_owned(), help.to_owned());
    }

    fn set(&mut self, name: &'static str, value: usize) {
        if let Cell::Gauge(level) = self.cell(&Key::from_static_name(name), Kind::Gauge) {
            metrics::GaugeFn::set(&*level, value as f64);
        }
    }

    /// Returns the series of a key, made if it is not there.
    pub(crate) fn cell(&mut self, key: &Key, kind: Kind) -> Cell {
        let function = key.labels().find(|label| is_function(label)).map(Label::value);
        let family = self.family(key, kind);
        let made = || Cell::new(kind, key.name());
        let Some(function) = function else { return self.own.entry(family).or_insert_with(made).clone() };
        if !self.functions.contains_key(function) {
            self.functions.insert(function.into(), Function::new());
        }
        let Some(series) = self.functions.get_mut(function) else { return made() };
        if let Some((_, cell)) = series.cells.iter().find(|(of, _)| *of == family) {
            return cell.clone();
        }
        let cell = made();
        series.cells.push((family, cell.clone()));
        cell
    }

    fn family(&mut self, key: &Key, kind: Kind) -> FamilyId {
        let labels = || key.labels().filter(|label| !is_function(label)).map(|label| (label.key(), label.value()));
        let known = self.by_name.get(key.name()).into_iter().flatten();
        for id in known {
            let fits = |family: &Arc<Family>| {
                let same = family.labels.iter().zip(labels()).all(|((key, value), label)| (&**key, &**value) == label);
                family.kind == kind && same && family.labels.len() == labels().count()
            };
            if self.families.get(*id).is_some_and(fits) {
                return *id;
            }
        }
        let labels = labels().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let id = self.families.len();
        self.families.push(Arc::new(Family { name: key.name().to_owned(), kind, labels }));
        self.by_name.entry(key.name().to_owned()).or_default().push(id);
        id
    }

    /// Decides who is told, and returns all that is.
    pub(crate) fn look(&mut self, now: Instant, deployed: &dyn Fn(&str) -> bool) -> Told {
        self.place(now, deployed);
        let mut levels = BTreeMap::new();
        for function in self.functions.values_mut().filter(|function| !function.told) {
            function.drain(|family, value| {
                if value.is_zero() {
                    return;
                }
                let sums = if matches!(value, Value::Gauge(_)) { &mut levels } else { &mut self.other };
                sums.entry(family).and_modify(|sum: &mut Value| sum.add(&value)).or_insert(value);
            });
        }
        self.functions.retain(|_, function| function.cells.iter().any(|(_, cell)| cell.held()));
        self.set("faas_metrics_functions", self.functions.values().filter(|function| function.told).count());
        self.tell(levels)
    }

    /// Gives the places to functions.
    fn place(&mut self, now: Instant, deployed: &dyn Fn(&str) -> bool) {
        let (mut told, mut wanting) = (Vec::new(), Vec::new());
        for (name, function) in &mut self.functions {
            function.look(now);
            match (deployed(name), function.told) {
                (true, true) => told.push(function),
                (true, false) if !function.is_idle(now, self.function_idle) => wanting.push(function),
                (true, false) | (false, false) => {}
                (false, true) => function.hide(),
            }
        }
        let free = self.functions_max.saturating_sub(told.len());
        wanting.sort_by_key(|function| Reverse(function.gained));
        told.retain(|function| function.is_idle(now, self.function_idle));
        told.sort_by_key(|function| function.active);
        let mut idle = told.into_iter();
        for (place, function) in wanting.into_iter().enumerate() {
            if place >= free {
                match idle.next() {
                    Some(idle) => idle.hide(),
                    None => return,
                }
            }
            function.told = true;
        }
    }

    fn tell(&self, levels: BTreeMap<FamilyId, Value>) -> Told {
        let mut series: Vec<Series> = vec![Vec::new(); self.families.len()];
        let mut put = |family: &FamilyId, function: Option<&Arc<str>>, value| {
            if let Some(of) = series.get_mut(*family) {
                of.push((function.cloned(), value));
            }
        };
        self.own.iter().for_each(|(family, cell)| put(family, None, cell.read()));
        let mut functions: Vec<_> = self.functions.iter().filter(|(_, function)| function.told).collect();
        functions.sort_unstable_by_key(|(name, _)| *name);
        for (name, function) in functions {
            function.cells.iter().for_each(|(family, cell)| put(family, Some(name), cell.read()));
        }
        let other = OTHER.into();
        self.other.iter().for_each(|(family, value)| put(family, Some(&other), value.clone()));
        levels.into_iter().for_each(|(family, value)| put(&family, Some(&other), value));
        let mut series: Vec<_> = self.families.iter().cloned().zip(series).filter(|(_, of)| !of.is_empty()).collect();
        series.sort_by(|(a, _), (b, _)| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        Told { helps: self.helps.clone(), series }
    }
}

/// Returns whether a label names a function. What begins with `_`, as no name does, stands for none.
fn is_function(label: &Label) -> bool {
    label.key() == FUNCTION && !label.value().starts_with('_')
}
