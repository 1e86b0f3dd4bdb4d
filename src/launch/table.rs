//! The table of rank, host, cores, device and network card, in one screen also for a thousand ranks; and what is wrong with
//! it.
//!
//! ```text
//! ranks         host                        cores  threads  NUMA  device            its NUMA  NIC
//! 0, 4 … 996    250 hosts node000 … node249  0-19  20       0     GPU 0000:1b:00.0  0         mlx5_0
//! ```
use super::machine::Domain;
use super::{Place, cores};
use std::collections::BTreeMap;

/// Rows past this many are grouped by what their ranks have in common.
const ROWS: usize = 16;

/// A rank's GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its PCI bus id.
    pub bus: String,
    /// The NUMA node that it hangs on, where the system knows.
    pub numa: Option<usize>,
}

const HEADINGS: [&str; 8] = ["ranks", "host", "cores", "threads", "NUMA", "device", "its NUMA", "NIC"];
type Cells = [String; HEADINGS.len()];
/// The cells after rank and host.
type Look = [String; HEADINGS.len() - 2];

/// One row a rank; of many ranks, one row for each of a kind of node, or one for the whole kind.
pub fn text(ranks: &[Place], seats: &[Seat]) -> String {
    let looks: Vec<Look> = ranks.iter().enumerate().map(|(rank, place)| look(place, seats.get(rank))).collect();
    if ranks.len() <= ROWS {
        let row = |(rank, place): (usize, &Place)| row(rank.to_string(), place.host.clone(), looks[rank].clone());
        return aligned(&ranks.iter().enumerate().map(row).collect::<Vec<_>>());
    }
    // Nodes that look alike: as many ranks, each with the same cells.
    let mut kinds: BTreeMap<Vec<&Look>, Vec<(&str, Vec<usize>)>> = BTreeMap::new();
    for (host, members) in by_host(ranks) {
        kinds.entry(members.iter().map(|r| &looks[*r]).collect()).or_default().push((host, members));
    }
    let each = kinds.keys().map(Vec::len).sum::<usize>() <= ROWS;
    let mut rows: Vec<Cells> = vec![];
    for (look, nodes) in &kinds {
        let hosts = match nodes.as_slice() {
            [(first, _), .., (last, _)] => format!("{} hosts {first} … {last}", nodes.len()),
            nodes => nodes.iter().map(|(host, _)| host.to_string()).collect(),
        };
        let members = |which: &dyn Fn(usize) -> bool| {
            let all = nodes.iter().flat_map(|(_, members)| members.iter().enumerate());
            let mut all: Vec<usize> = all.filter(|(i, _)| which(*i)).map(|(_, rank)| *rank).collect();
            all.sort_unstable();
            short(&all)
        };
        if each {
            rows.extend(look.iter().enumerate().map(|(i, cells)| row(members(&|j| i == j), hosts.clone(), (*cells).clone())));
            continue;
        }
        // The first rank's cells, where the others differ with a sign of it.
        let common = std::array::from_fn(|at| match &look[0][at] {
            text if look.iter().all(|cells| cells[at] == *text) => text.clone(),
            text => format!("{text} | …"),
        });
        rows.push(row(members(&|_| true), hosts, common));
    }
    let more = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    let rest = if more > 0 { format!("… and {more} more kinds of node\n") } else { String::new() };
    aligned(&rows) + &rest
}

fn row(ranks: String, host: String, look: Look) -> Cells {
    let mut cells = [ranks, host].into_iter().chain(look);
    std::array::from_fn(|_| cells.next().unwrap_or_default())
}

fn look(place: &Place, seat: Option<&Seat>) -> Look {
    let known = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [
        cores::list(&place.cores),
        place.threads.to_string(),
        known(cores::list(&place.near)),
        seat.map_or("cpu".into(), |seat| format!("GPU {}", seat.bus)),
        known(seat.and_then(|seat| seat.numa).map_or(String::new(), |node| node.to_string())),
        known(cards(place, seat)),
    ]
}

/// The network cards nearest to what a rank computes with: of its NUMA node, else all.
fn cards(place: &Place, seat: Option<&Seat>) -> String {
    let nodes: Vec<usize> = seat.and_then(|seat| seat.numa).map_or_else(|| place.near.clone(), |node| vec![node]);
    let mut names: Vec<&str> =
        place.nics.iter().filter(|nic| nic.numa.is_some_and(|n| nodes.contains(&n))).map(|nic| nic.name.as_str()).collect();
    if names.is_empty() {
        names = place.nics.iter().map(|nic| nic.name.as_str()).collect();
    }
    match names.as_slice() {
        [first, .., last] if names.len() > 2 => format!("{first} … {last}"),
        names => names.join(","),
    }
}

/// `0-999`, `0,2,4`, or `0, 4 … 996` where that would be long.
fn short(ranks: &[usize]) -> String {
    let whole = cores::list(ranks);
    match ranks {
        [first, second, .., last] if whole.len() > 16 => format!("{first}, {second} … {last}"),
        _ => whole,
    }
}

/// Columns as wide as their widest cell.
fn aligned(rows: &[Cells]) -> String {
    let headings = HEADINGS.map(str::to_owned);
    let all = || std::iter::once(&headings).chain(rows);
    let wide: [usize; HEADINGS.len()] =
        std::array::from_fn(|at| all().map(|cells| cells[at].chars().count()).max().unwrap_or_default());
    let line = |cells: &Cells| {
        let padded: Vec<String> = cells.iter().zip(wide).map(|(cell, wide)| format!("{cell:wide$}")).collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

fn by_host(ranks: &[Place]) -> BTreeMap<&str, Vec<usize>> {
    let mut hosts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    ranks.iter().enumerate().for_each(|(rank, place)| hosts.entry(&place.host).or_default().push(rank));
    hosts
}

/// Of the first node where something is wrong: a thousand would be wrong in the same way. `domains`: the NUMA nodes of this
/// machine, which the others are taken to have as well.
pub fn warnings(ranks: &[Place], domains: &[Domain], seats: &[Seat]) -> Vec<String> {
    let wrong = |(host, members): (&str, Vec<usize>)| {
        let places: Vec<&Place> = members.iter().map(|rank| &ranks[*rank]).collect();
        wrong(&places).map(|text| format!("on {host} {text}"))
    };
    let found: Vec<String> = by_host(ranks).into_iter().filter_map(wrong).collect();
    let more =
        if found.len() > 1 { format!(" (something of the kind on {} more hosts)", found.len() - 1) } else { String::new() };
    let found = found.first().map(|first| format!("{first}{more}"));
    found.into_iter().chain(spread(ranks, domains)).chain(far(ranks, seats)).chain(sharing(ranks, seats)).collect()
}

/// A rank whose threads work in several NUMA nodes reads most of its memory from afar.
fn spread(ranks: &[Place], domains: &[Domain]) -> Option<String> {
    let place = ranks.iter().find(|place| place.threads > 1 && place.near.len() > 1)?;
    let each = domains.iter().map(|domain| domain.cores.len()).max()?;
    Some(format!(
        "on {} a rank's cores lie in {} NUMA domains; one rank a domain keeps its memory near: mpirun -n {} a node --map-by numa \
         --bind-to numa; srun --ntasks-per-node={} --cpus-per-task={each} --cpu-bind=cores",
        place.host,
        place.near.len(),
        domains.len(),
        domains.len()
    ))
}

/// A rank whose cores hang on another NUMA node than its GPU copies and launches through the other's.
fn far(ranks: &[Place], seats: &[Seat]) -> Option<String> {
    let is_far = |rank: &usize| {
        let near = &ranks[*rank].near;
        seats[*rank].numa.is_some_and(|node| !near.is_empty() && !near.contains(&node))
    };
    let rank = (0..seats.len()).find(is_far)?;
    let members: Vec<usize> = (0..ranks.len()).filter(|other| ranks[*other].host == ranks[rank].host).collect();
    let wanted: Option<Vec<String>> = members.iter().map(|r| seats[*r].numa.map(|node| node.to_string())).collect();
    let mend = match wanted {
        Some(nodes) => format!("srun --cpu-bind=map_ldom:{} (whole nodes), or mpirun --bind-to none", nodes.join(",")),
        None => "mpirun --bind-to none; srun --cpu-bind=none".into(),
    };
    Some(format!(
        "on {} the cores of rank {rank} lie in NUMA node {}, its GPU {} hangs on node {} (so with {} of {} ranks there): {mend}",
        ranks[rank].host,
        cores::list(&ranks[rank].near),
        seats[rank].bus,
        seats[rank].numa.map_or(String::new(), |node| node.to_string()),
        members.iter().filter(|r| is_far(r)).count(),
        members.len()
    ))
}

/// Ranks of a node that work on one GPU.
pub fn sharing(ranks: &[Place], seats: &[Seat]) -> Vec<String> {
    let mut users: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
    seats.iter().enumerate().for_each(|(rank, seat)| users.entry((ranks[rank].node, &seat.bus)).or_default().push(rank));
    let line = |((_, bus), users): ((usize, &str), Vec<usize>)| {
        let (host, names) = (&ranks[users[0]].host, users.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
        let advice =
            "start as many ranks a node as it has GPUs (srun --ntasks-per-node), and hide none from them (--gpu-bind=none)";
        (users.len() > 1).then(|| format!("ranks {names} share the GPU {bus} of {host}: {advice}"))
    };
    // A few say enough.
    users.into_iter().filter_map(line).take(4).collect()
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
        let fewer = if threads > places.len() { " or a smaller --threads" } else { "" };
        Some(format!("{n} with {threads} threads share {used} cores: use fewer ranks{fewer}"))
    } else if used < open {
        Some(format!("the launcher's binding leaves {} of {open} cores idle: {mend}", open - used))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Nic;
    use super::*;

    fn place(host: &str, cores: std::ops::Range<usize>, threads: usize) -> Place {
        let (host, whole, cores, room, open) = (host.into(), cores.len(), cores.collect(), 128, 8);
        Place { host, node: 0, cores, whole, near: vec![], nics: vec![], room, open, threads, pid: 1 }
    }

    /// JUWELS Booster's order: GPU 0 to 3 hang on NUMA nodes 3, 1, 7 and 5.
    const ORDER: [usize; 4] = [3, 1, 7, 5];

    fn nodes_of_four(nodes: usize, near: [usize; 4]) -> (Vec<Place>, Vec<Seat>) {
        let nics: Vec<Nic> = (0..4).map(|i| Nic { name: format!("mlx5_{i}"), numa: Some(ORDER[i]) }).collect();
        let rank = |r: usize| {
            let (gpu, cores) = (r % 4, near[r % 4] * 6..near[r % 4] * 6 + 6);
            let (near, nics, node) = (vec![near[gpu]], nics.clone(), r / 4 * 4);
            let place = Place { near, nics, node, open: 24, ..place(&format!("node{:03}", r / 4), cores, 6) };
            (place, Seat { bus: format!("0000:{}3:00.0", gpu), numa: Some(ORDER[gpu]) })
        };
        (0..4 * nodes).map(rank).unzip()
    }

    #[test]
    fn a_thousand_ranks_fit_one_screen() {
        let ranks: Vec<Place> = (0..1000).map(|r| place(&format!("node{:03}", r / 4), r % 4 * 20..r % 4 * 20 + 20, 20)).collect();
        let all = text(&ranks, &[]);
        assert!(all.lines().count() < 20, "{all}");
        assert!(all.contains("0, 4 … 996") && all.contains("250 hosts node000 … node249") && all.contains(" cpu "), "{all}");
        // every node its own kind, so that each has a row and most have none
        let ranks: Vec<Place> = (0..1000).map(|r| place(&format!("node{:03}", r / 4), r..r + 1, 1)).collect();
        let all = text(&ranks, &[]);
        assert!(all.lines().count() < 20 && all.contains("more kinds of node"), "{all}");
    }

    #[test]
    fn many_gpus_have_a_row_for_each_of_a_node() {
        let (ranks, seats) = nodes_of_four(250, ORDER);
        let all = text(&ranks, &seats);
        let rows: Vec<Vec<&str>> = all.lines().skip(1).map(|line| line.split("  ").map(str::trim).collect()).collect();
        assert_eq!(rows.len(), 4, "{all}");
        // ordered by their cells: cores 18-23, 30-35, 42-47, 6-11
        let first: Vec<&str> = rows[0].iter().filter(|cell| !cell.is_empty()).copied().collect();
        let hosts = "250 hosts node000 … node249";
        assert_eq!(first, ["0, 4 … 996", hosts, "18-23", "6", "3", "GPU 0000:03:00.0", "3", "mlx5_0"], "{all}");
        assert!(all.lines().all(|line| line.chars().count() <= 110), "{all}");
        assert!(warnings(&ranks, &[], &seats).is_empty());
    }

    #[test]
    fn one_row_a_rank_when_they_are_few() {
        let text = text(&[place("a", 0..2, 2), place("b", 2..4, 2)], &[]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("2-3"));
    }

    #[test]
    fn the_nearest_cards_are_named_or_all() {
        let nic = |name: &str, numa| Nic { name: name.into(), numa };
        let nics = vec![nic("a", Some(0)), nic("b", Some(1)), nic("c", Some(1))];
        let place = Place { near: vec![1], nics, ..place("host", 0..2, 2) };
        assert_eq!(cards(&place, None), "b,c");
        assert_eq!(cards(&place, Some(&Seat { bus: "0".into(), numa: Some(0) })), "a");
        assert_eq!(cards(&place, Some(&Seat { bus: "0".into(), numa: Some(7) })), "a … c");
    }

    #[test]
    fn a_rank_far_from_its_gpu_is_said_with_the_option_that_mends_it() {
        let (ranks, seats) = nodes_of_four(2, [1, 3, 5, 7]);
        let found = warnings(&ranks, &[], &seats);
        let expected =
            ["on node000 ", "rank 0", "NUMA node 1", "0000:03:00.0", "node 3", "4 of 4", "--cpu-bind=map_ldom:3,1,7,5"];
        assert!(found.len() == 1 && expected.iter().all(|part| found[0].contains(part)), "{found:?}");
        // where nobody knows, nothing is said
        let unknown: Vec<Seat> = seats.iter().map(|seat| Seat { numa: None, ..seat.clone() }).collect();
        assert!(warnings(&ranks, &[], &unknown).is_empty());
        let anywhere: Vec<Place> = ranks.iter().map(|place| Place { near: vec![], ..place.clone() }).collect();
        assert!(warnings(&anywhere, &[], &seats).is_empty());
    }

    #[test]
    fn ranks_of_a_node_that_share_a_gpu_are_named() {
        let (ranks, mut seats) = nodes_of_four(2, ORDER);
        assert!(sharing(&ranks, &seats).is_empty(), "the same bus id on two nodes is two GPUs");
        seats[5] = seats[4].clone();
        let found = sharing(&ranks, &seats);
        let expected = ["ranks 4, 5 share the GPU 0000:03:00.0 of node001", "--ntasks-per-node", "--gpu-bind=none"];
        assert!(found.len() == 1 && expected.iter().all(|part| found[0].contains(part)), "{found:?}");
    }

    #[test]
    fn shared_and_idle_cores_are_said_with_the_option_that_mends_it() {
        let warnings = |ranks: &[Place]| warnings(ranks, &[], &[]);
        // mpirun -n 2 binds each rank to one core.
        let idle = warnings(&[place("a", 0..1, 1), place("a", 1..2, 1)]);
        assert!(idle[0].contains("6 of 8 cores idle") && idle[0].contains("slot:PE=4"), "{idle:?}");
        let bound = warnings(&[place("a", 0..1, 1), place("a", 0..1, 1)]);
        assert!(bound[0].contains("share 1 of 8 cores") && bound[0].contains("--bind-to none"), "{bound:?}");
        let crowded = warnings(&[place("a", 0..8, 8), place("a", 0..8, 8)]);
        assert!(crowded[0].contains("16 threads share 8 cores") && !crowded[0].contains("bind"), "{crowded:?}");
        assert!(warnings(&[place("a", 0..8, 4), place("a", 0..8, 4)]).is_empty());
        assert!(warnings(&[place("a", 0..4, 4), place("a", 4..8, 4)]).is_empty());
    }

    #[test]
    fn a_rank_in_several_numa_domains_is_said_with_the_option_that_mends_it() {
        let domains = [(0, 0..4), (1, 4..8)].map(|(number, cores)| Domain { number, cores: cores.collect() });
        let near = |place: Place| Place { near: super::super::touched(&domains, &place.cores), ..place };
        let over = warnings(&[near(place("a", 0..8, 8))], &domains, &[]);
        let expected = ["2 NUMA domains", "--map-by numa --bind-to numa", "--ntasks-per-node=2 --cpus-per-task=4"];
        assert!(over.len() == 1 && expected.iter().all(|part| over[0].contains(part)), "{over:?}");
        assert!(warnings(&[near(place("a", 0..4, 4)), near(place("a", 4..8, 4))], &domains, &[]).is_empty());
        // unbound ranks of one thread each are the system's to place
        assert!(warnings(&(0..8).map(|_| near(place("a", 0..8, 1))).collect::<Vec<_>>(), &domains, &[]).is_empty());
    }
}
