//! The table of rank, host, device, cores and threads, in one screen also for a thousand ranks; and what is wrong with it.
use super::{Place, cores};
use std::collections::BTreeMap;

/// Rows past this many are grouped by what their ranks have in common.
const ROWS: usize = 16;

/// Cores and threads of each rank of a node.
type Look = Vec<(Vec<usize>, usize)>;

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
    let look = |members: &[usize]| members.iter().map(|r| (ranks[*r].cores.clone(), ranks[*r].threads)).collect::<Look>();
    let mut alike: BTreeMap<Look, Vec<(&str, &Vec<usize>)>> = BTreeMap::new();
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

/// Of the first node where something is wrong: a thousand would be wrong in the same way. `domains`: the cores of this
/// node's NUMA domains, which the others are taken to have as well.
pub fn warnings(ranks: &[Place], domains: &[Vec<usize>]) -> Vec<String> {
    let mut nodes: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    ranks.iter().for_each(|place| nodes.entry(&place.host).or_default().push(place));
    let found = nodes.into_iter().find_map(|(host, places)| wrong(&places).map(|text| format!("on {host} {text}")));
    found.into_iter().chain(spread(ranks, domains)).collect()
}

/// A rank whose threads work in several NUMA domains reads most of its memory from afar.
fn spread(ranks: &[Place], domains: &[Vec<usize>]) -> Option<String> {
    let touched = |place: &Place| domains.iter().filter(|domain| place.cores.iter().any(|core| domain.contains(core))).count();
    let place = ranks.iter().find(|place| place.threads > 1 && touched(place) > 1)?;
    let each = domains.iter().map(Vec::len).max()?;
    Some(format!(
        "on {} a rank's cores lie in {} NUMA domains; one rank a domain keeps its memory near: mpirun -n {} a node --map-by numa \
         --bind-to numa; srun --ntasks-per-node={} --cpus-per-task={each} --cpu-bind=cores",
        place.host,
        touched(place),
        domains.len(),
        domains.len()
    ))
}

fn wrong(places: &[&Place]) -> Option<String> {
    let threads: usize = places.iter().map(|p| p.threads).sum();
    let mut used: Vec<usize> = places.iter().flat_map(|p| p.cores.iter().copied()).collect();
    used.sort_unstable();
    used.dedup();
    let (used, open) = (used.len(), places.iter().map(|p| p.open).max().unwrap_or(0));
    let each = (open / places.len()).max(1);
    let mend = format!("mpirun --bind-to none, or --map-by slot:PE={each}; srun --cpus-per-task={each}");
    let n = match places.len() {
        1 => "1 rank".to_owned(),
        n => format!("{n} ranks"),
    };
    if threads > used && open > used {
        Some(format!("{n} with {threads} threads share {used} of {open} cores, to which the launcher bound them: {mend}"))
    } else if threads > used {
        Some(format!("{n} with {threads} threads share {used} cores: use fewer ranks or a smaller --threads"))
    } else if used < open {
        Some(format!("the launcher's binding leaves {} of {open} cores idle: {mend}", open - used))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(host: &str, cores: std::ops::Range<usize>, threads: usize) -> Place {
        let open = 8;
        Place { host: host.into(), node: 0, cores: cores.collect(), room: 128, open, threads, pid: 1 }
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
    fn shared_and_idle_cores_are_said_with_the_option_that_mends_it() {
        // mpirun -n 2 binds each rank to one core.
        let idle = warnings(&[place("a", 0..1, 1), place("a", 1..2, 1)], &[]);
        assert!(idle[0].contains("6 of 8 cores idle") && idle[0].contains("slot:PE=4"), "{idle:?}");
        let bound = warnings(&[place("a", 0..1, 1), place("a", 0..1, 1)], &[]);
        assert!(bound[0].contains("share 1 of 8 cores") && bound[0].contains("--bind-to none"), "{bound:?}");
        let crowded = warnings(&[place("a", 0..8, 8), place("a", 0..8, 8)], &[]);
        assert!(crowded[0].contains("16 threads share 8 cores") && !crowded[0].contains("bind"), "{crowded:?}");
        assert!(warnings(&[place("a", 0..8, 4), place("a", 0..8, 4)], &[]).is_empty());
        assert!(warnings(&[place("a", 0..4, 4), place("a", 4..8, 4)], &[]).is_empty());
    }

    #[test]
    fn a_rank_in_several_numa_domains_is_said_with_the_option_that_mends_it() {
        let domains = [(0..4).collect(), (4..8).collect::<Vec<usize>>()];
        let over = warnings(&[place("a", 0..8, 8)], &domains);
        let expected = ["2 NUMA domains", "--map-by numa --bind-to numa", "--ntasks-per-node=2 --cpus-per-task=4"];
        assert!(over.len() == 1 && expected.iter().all(|part| over[0].contains(part)), "{over:?}");
        assert!(warnings(&[place("a", 0..4, 4), place("a", 4..8, 4)], &domains).is_empty());
        // unbound ranks of one thread each are the system's to place
        assert!(warnings(&(0..8).map(|_| place("a", 0..8, 1)).collect::<Vec<_>>(), &domains).is_empty());
    }
}
