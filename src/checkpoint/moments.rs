//! AdamW's moments, one file a rank, in coordinates that know neither ranks nor padding: a checkpoint of N ranks resumes
//! on any M.
//!
//! ```text
//! coordinate: the position in the concatenation of a group's parameters in memory order, padding left out
//!
//! memory      | q k v out up down ··· | biases, norms · · ······ |     · padding
//! coordinate  | q k v out up down | biases, norms |
//! written     |  rank 0   |  rank 1   |  rank 2   |     group-00001.m and .v of each rank's file, from `starts[1]` on
//! read        |     rank 0     |     rank 1       |     the parts that overlap with what is owned now
//! ```
//! Where every rank owns everything (DDP), each still writes only its share.
use super::safetensors::{CHUNK, Sink, Source};
use crate::bad_input;
use crate::device::Device;
use crate::error::Result;
use crate::model::{Group, Parameter};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The moments of what this rank owns of one group.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The owned part: elements of the weights to which `m` and `v` belong, one by one.
    pub owned: Range<usize>,
    pub m: Tensor,
    pub v: Tensor,
}

/// What a file says of itself in its `__metadata__`.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Share {
    rank: usize,
    ranks: usize,
    /// Of each group, the coordinate of the first element in this file.
    starts: Vec<usize>,
    /// Of each group, its elements in all files together.
    totals: Vec<usize>,
}

/// The key in `__metadata__` that holds a [`Share`].
const SHARE: &str = "share";

pub(super) fn file(rank: usize, ranks: usize) -> String {
    format!("optimizer-{:05}-of-{ranks:05}.safetensors", rank + 1)
}

fn tensor(group: usize, moment: char) -> String {
    format!("group-{group:05}.{moment}")
}

/// Writes this rank's share of all moments into `dir`.
pub(super) fn write(
    dir: &Path,
    dev: &Device,
    (parameters, groups, moments): (&[Parameter], &[Group], &[Moments]),
    (rank, ranks): (usize, usize),
) -> Result<()> {
    assert_eq!(groups.len(), moments.len(), "groups against moments");
    let maps: Vec<_> = (0..groups.len()).map(|g| Coordinates::of(parameters, g)).collect();
    let shares: Vec<_> = (0..groups.len()).map(|g| maps[g].share(&groups[g], &moments[g].owned, rank, ranks)).collect();
    let about =
        Share { rank, ranks, starts: shares.iter().map(|s| s.start).collect(), totals: maps.iter().map(|map| map.len).collect() };
    let about = serde_json::to_string(&about).expect("numbers");
    let shapes =
        shares.iter().enumerate().flat_map(|(g, s)| ['m', 'v'].map(|moment| (tensor(g, moment), vec![s.len()]))).collect();
    let (mut sink, _) = Sink::tensors(&dir.join(file(rank, ranks)), shapes, false, (SHARE, &about))?;
    // The names' order is the groups', m before v.
    for ((map, share), own) in maps.iter().zip(&shares).zip(moments) {
        for moment in [own.m, own.v] {
            assert_eq!(moment.len(), own.owned.len(), "a moment for each owned element");
            for (memory, _) in map.pieces(share) {
                sink.values(&dev.read(within(moment, &own.owned, memory)))?;
            }
        }
    }
    sink.close()
}

/// Fills `moments` (what this rank owns now) from the checkpoint `dir`, written by any number of ranks; reads no more
/// than the overlapping parts.
///
/// Errors: [`crate::error::Error::Input`] naming the file when it is missing, damaged, or belongs to another model.
pub fn load_optimizer(dir: &Path, dev: &Device, parameters: &[Parameter], moments: &[Moments]) -> Result<()> {
    let ranks = super::read_progress(dir)?.ranks;
    let mut files = Files { dir, ranks, open: BTreeMap::new() };
    for (g, own) in moments.iter().enumerate() {
        let map = Coordinates::of(parameters, g);
        let wanted = map.of_memory(&own.owned);
        let mut rank = files.first_past(g, wanted.start)?;
        let mut at = wanted.start;
        while at < wanted.end {
            if rank == ranks {
                bad_input!("{}: expected moments of group {g} at {at}, found them in no optimizer file", dir.display());
            }
            let (source, share) = files.get(rank)?;
            if share.totals.len() != moments.len() || share.totals[g] != map.len {
                let (path, found) = (source.path().display(), share.totals.get(g));
                bad_input!("{path}: expected {} moments of group {g} of {}, found {found:?}", map.len, moments.len());
            }
            let held = span(source, share, g)?;
            if held.start > at {
                let path = source.path().display();
                bad_input!("{path}: expected moments of group {g} from {at} on, found them from {}", held.start);
            }
            let here = at..wanted.end.min(held.end);
            for (moment, name) in [(own.m, tensor(g, 'm')), (own.v, tensor(g, 'v'))] {
                for (memory, coordinate) in map.pieces(&here) {
                    let values = source.read(&name, coordinate.start - held.start..coordinate.end - held.start)?;
                    dev.write(within(moment, &own.owned, memory), &values);
                }
            }
            (at, rank) = (here.end, rank + 1);
        }
    }
    Ok(())
}

/// The part of `moment` that belongs to the weights' elements `memory`.
fn within(moment: Tensor, owned: &Range<usize>, memory: Range<usize>) -> Tensor {
    Tensor::range(moment.at + memory.start - owned.start, moment.at + memory.end - owned.start)
}

/// Where the elements of one group lie in memory, and in the file.
struct Coordinates {
    /// (first element in memory, first coordinate, length), ascending in both.
    pieces: Vec<(usize, usize, usize)>,
    len: usize,
}

impl Coordinates {
    fn of(parameters: &[Parameter], group: usize) -> Coordinates {
        let mut places: Vec<Tensor> = parameters.iter().filter(|p| p.group == group).map(|p| p.weights).collect();
        places.sort_by_key(|t| t.at);
        let mut len = 0;
        let mut piece = |t: Tensor| {
            len += t.len();
            (t.at, len - t.len(), t.len())
        };
        let pieces = places.into_iter().map(&mut piece).collect();
        Coordinates { pieces, len }
    }

    /// The coordinates of the elements `memory`, which may begin or end in padding.
    fn of_memory(&self, memory: &Range<usize>) -> Range<usize> {
        let place = |at: usize| self.pieces.iter().map(|(start, _, len)| at.saturating_sub(*start).min(*len)).sum();
        place(memory.start)..place(memory.end)
    }

    /// `coordinates` in pieces that are contiguous in memory and at most [`CHUNK`] long: (memory, coordinates).
    fn pieces(&self, coordinates: &Range<usize>) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (from, to) = (coordinates.start, coordinates.end);
        self.pieces.iter().flat_map(move |(memory, first, len)| {
            let (start, end) = (from.max(*first), to.min(first + len));
            (start..end).step_by(CHUNK).map(move |at| {
                let end = end.min(at + CHUNK);
                (memory + at - first..memory + end - first, at..end)
            })
        })
    }

    /// The coordinates that `rank` writes: those of the shard it owns, or an even share where each rank owns the group.
    fn share(&self, group: &Group, owned: &Range<usize>, rank: usize, ranks: usize) -> Range<usize> {
        let cut = |i| self.len * i / ranks;
        if *owned == group.weights { cut(rank)..cut(rank + 1) } else { self.of_memory(owned) }
    }
}

/// The optimizer files of a checkpoint, opened when first asked for: a thousand ranks need not each open a thousand.
struct Files<'a> {
    dir: &'a Path,
    ranks: usize,
    open: BTreeMap<usize, (Source, Share)>,
}

impl Files<'_> {
    fn get(&mut self, rank: usize) -> Result<&(Source, Share)> {
        if let std::collections::btree_map::Entry::Vacant(place) = self.open.entry(rank) {
            let path: PathBuf = self.dir.join(file(rank, self.ranks));
            let source = Source::open(&path)?;
            let share = source.metadata(SHARE).and_then(|text| serde_json::from_str::<Share>(text).ok());
            let Some(share) = share.filter(|s| s.starts.len() == s.totals.len()) else {
                bad_input!("{}: expected its share of the groups in __metadata__, found none", path.display());
            };
            if (share.rank, share.ranks) != (rank, self.ranks) {
                let (path, found, of) = (path.display(), share.rank, share.ranks);
                bad_input!("{path}: expected the share of rank {rank} of {}, found that of rank {found} of {of}", self.ranks);
            }
            place.insert((source, share));
        }
        Ok(&self.open[&rank])
    }

    /// The first rank whose part of `group` ends past `coordinate`: shares ascend with the ranks, so we may halve.
    fn first_past(&mut self, group: usize, coordinate: usize) -> Result<usize> {
        let (mut low, mut high) = (0, self.ranks);
        while low < high {
            let middle = low.midpoint(high);
            let (source, share) = self.get(middle)?;
            if span(source, share, group)?.end > coordinate { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }
}

/// The coordinates of `group` that the file `source` holds.
fn span(source: &Source, share: &Share, group: usize) -> Result<Range<usize>> {
    let [m, v] = ['m', 'v'].map(|moment| source.info(&tensor(group, moment)).map(|info| &info.shape[..]));
    match (m, share.starts.get(group)) {
        (Some([n]), Some(start)) if m == v && start.checked_add(*n).is_some() => Ok(*start..start + n),
        _ => bad_input!("{}: expected vectors m and v of group {group}, found {m:?} and {v:?}", source.path().display()),
    }
}
