//! The gate in front of a device's memory: every op passes it, and every loan.
use super::Access;
use crate::tensor::Tensor;
use std::sync::{Arc, Mutex};

/// The loans that are out: number, range, access.
pub(super) type Loans = Arc<Mutex<Vec<(u64, Tensor, Access)>>>;

/// Knows the arena's length and what of it is lent.
#[derive(Default)]
pub struct Gate {
    len: usize,
    pub(super) loans: Loans,
}

impl Gate {
    pub fn new(len: usize) -> Gate {
        Gate { len, loans: Arc::default() }
    }

    /// As [`Gate::check_places`], for an op that is not written for bf16: panics when an operand is.
    pub fn check(&self, outs: &[Tensor], ins: &[Tensor]) {
        if let Some(t) = outs.iter().chain(ins).find(|t| t.half) {
            panic!("{t:?} is in bf16, which this operation does not read or write");
        }
        self.check_places(outs, ins);
    }

    /// Panics when an operand lies outside the arena, when an output overlaps another operand, when a loan forbids the access.
    pub fn check_places(&self, outs: &[Tensor], ins: &[Tensor]) {
        for (i, o) in outs.iter().enumerate() {
            if let Some(t) = outs[..i].iter().chain(ins).find(|t| t.meets(*o)) {
                panic!("operands overlap: {o:?} is written and meets {t:?}");
            }
        }
        for t in outs.iter().chain(ins) {
            assert!(t.end() <= self.len, "{t:?} lies outside the arena of {} elements", self.len);
        }
        let conflict = self.loans.lock().expect("loans").iter().find_map(|&(_, lent, access)| {
            let written = outs.iter().find(|t| t.meets(lent));
            let read = ins.iter().find(|t| access == Access::Write && t.meets(lent));
            written.or(read).map(|t| (*t, lent, access))
        });
        if let Some((t, lent, access)) = conflict {
            panic!("{t:?} is used while {lent:?} is lent for {access:?}");
        }
    }

    /// Enters a loan, and returns its number. Panics when an open loan conflicts with it.
    pub fn lend(&self, t: Tensor, access: Access) -> u64 {
        assert!(t.end() <= self.len, "{t:?} lies outside the arena");
        assert!(!t.half, "{t:?} is lent, but not in f32");
        let clash = |other: Access| other == Access::Write || access == Access::Write;
        let mut table = self.loans.lock().expect("loans");
        if let Some(&(_, lent, other)) = table.iter().find(|(_, lent, other)| clash(*other) && t.meets(*lent)) {
            drop(table); // a panic must not poison what `Loan::drop` needs
            panic!("{t:?} is lent for {access:?} while {lent:?} is out for {other:?}");
        }
        let id = table.last().map_or(0, |(id, ..)| id + 1);
        table.push((id, t, access));
        id
    }
}
