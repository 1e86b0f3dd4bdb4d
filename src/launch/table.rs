//! The table of rank, host, device, cores and threads, in one screen also for a thousand ranks; and what is wrong with it.
use super::{Place, cores};
use std::collections::BTreeMap;

/// Rows past this many are grouped by what their ranks have in common.
const ROWS: usize = 16;

/// One row a rank, or, of many ranks, one row for each kind of node.
pub fn text(ranks: &[Place]) -> String {
    let mut out = String::from("ranks                hosts                        device  cores        threads\n");
    let mut row = |ranks: &str, hosts: &str, cores: &str, threads: usize| {
        out += &format!("{ranks:<20} {hosts:<28} {:<7} {cores:<12} {threads}\n", "cpu");
    };
    if ranks.len() <= ROWS {
        for (rank, place) in ranks.iter().enumerate() {
            row(&rank.to_string(), &place.host, &cores::list(&place.cores), place.threads);
        }
        return out;
    }
    let mut nodes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    ranks.iter().enumerate().for_each(|(rank, place)| nodes.entry(&place.host).or_default().push(rank));
    // Nodes that look alike: as many ranks, with the same cores and threads.
    let look = |members: &[usize]| members.iter().map(|r| (ranks[*r].cores.clone(), ranks[*r].threads)).collect::<Vec<_>>();
    let mut alike: BTreeMap<Vec<(Vec<usize>, usize)>, Vec<(&str, &Vec<usize>)>> = BTreeMap::new();
    nodes.iter().for_each(|(host, members)| alike.entry(look(members)).or_default().push((host, members)));
    for (look, nodes) in alike {
        let hosts = match nodes.as_slice() {
            [(host, _)] => host.to_string(),
            [(first, _), .., (last, _)] => format!("{} hosts {first} … {last}", nodes.len()),
            [] => continue,
        };
        let all: Vec<usize> = nodes.iter().flat_map(|(_, members)| members.iter().copied()).collect();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        let every: Vec<String> = look.iter().map(|(c, _)| cores::list(c)).collect();
        let cores = if every.len() > 1 { format!("{} | …", every[0]) } else { every.join("") };
        row(&cores::list(&sorted), &hosts, &cores, look[0].1);
    }
    out
}

/// `online`: cores of this rank's machine, taken for all of them.
pub fn warnings(ranks: &[Place], online: usize) -> Vec<String> {
    let mut out = vec![];
    let mut nodes: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    ranks.iter().for_each(|place| nodes.entry(&place.host).or_default().push(place));
    let Some((host, places)) = nodes.into_iter().find(|(_, places)| wrong(places, online).is_some()) else { return out };
    out.extend(wrong(&places, online).map(|text| format!("on {host} {text}")));
    out
}

fn wrong(places: &[&Place], online: usize) -> Option<String> {
    let threads: usize = places.iter().map(|p| p.threads).sum();
    let mut used: Vec<usize> = places.iter().flat_map(|p| p.cores.iter().copied()).collect();
    used.sort_unstable();
    used.dedup();
    let mend = "mpirun: --bind-to none, or --map-by slot:PE=<cores a rank>; srun: --cpus-per-task=<cores a rank>";
    if threads > used.len() {
        let n = places.len();
        Some(format!("{n} ranks with {threads} threads share {} cores: fewer ranks or --threads; {mend}", used.len()))
    } else if used.len() < online && threads < online {
        Some(format!("{} of {online} cores are left idle by the launcher's binding: {mend}", online - used.len()))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, cores: std::ops::Range<usize>, threads: usize) -> Place {
        Place { host: host.into(), cores: cores.collect(), threads, pid: 1 }
    }

    #[test]
    fn a_thousand_ranks_fit_one_screen() {
        let ranks: Vec<Place> = (0..1000).map(|r| place(&format!("node{:03}", r / 4), r % 4 * 20..r % 4 * 20 + 20, 20)).collect();
        let text = text(&ranks);
        assert!(text.lines().count() < 20, "{text}");
        assert!(text.contains("0-999") && text.contains("250 hosts"), "{text}");
    }

    #[test]
    fn one_row_a_rank_when_they_are_few() {
        let text = text(&[place("a", 0..2, 2), place("b", 2..4, 2)]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("2-3"));
    }

    #[test]
    fn shared_and_idle_cores_are_said() {
        assert!(warnings(&[place("a", 0..1, 1), place("a", 0..1, 1)], 1)[0].contains("share 1 cores"));
        assert!(warnings(&[place("a", 0..1, 1), place("a", 1..2, 1)], 8)[0].contains("6 of 8 cores are left idle"));
        assert!(warnings(&[place("a", 0..2, 1), place("a", 0..2, 1)], 2).is_empty());
    }
}
