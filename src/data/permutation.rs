//! A keyed permutation of `0 .. n` that gives any place by itself: no table, no shuffle, no state to restore.
//!
//! ```text
//! (l, r) = the upper and lower h bits of i, 4^h ≥ n         a Feistel network permutes 0 .. 4^h whatever its rounds do
//! six times: (l, r) = (r, l ⊕ mix(key, round, r))
//! if the outcome is ≥ n, go through again                   cycle walking: a permutation of 0 .. n, under 4 turns on average
//! ```
//! Source: Black and Rogaway, *Ciphers with Arbitrary Finite Domains* (2002).

/// Where `i` goes among `0 .. n` under `key`.
pub fn permute(i: u64, n: u64, key: u64) -> u64 {
    assert!(i < n, "place {i} of {n}");
    // Structural: 4^h ≥ n. At least 4^3, below which six rounds of so few bits repeat themselves.
    let half = (u64::BITS - (n - 1).leading_zeros()).div_ceil(2).max(3);
    let mask = u64::MAX >> (u64::BITS - half);
    let mut at = i;
    loop {
        let (mut l, mut r) = (at >> half, at & mask);
        for round in 0..6 {
            (l, r) = (r, l ^ (mix(r ^ mix(key.wrapping_add(round))) & mask));
        }
        at = l << half | r;
        if at < n {
            return at;
        }
    }
}

/// Every bit of the outcome depends on every bit of `x`. Source: Steele et al., SplitMix64 (2014), variant 13 of Stafford.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_permutation() {
        for n in [1, 2, 3, 7, 8, 9, 63, 64, 65, 1000, 4097] {
            let mut seen = vec![false; n as usize];
            (0..n).for_each(|i| seen[permute(i, n, 42) as usize] = true);
            assert!(seen.iter().all(|&s| s), "{n}");
        }
        assert!(permute(u64::MAX - 2, u64::MAX - 1, 1) < u64::MAX - 1);
    }

    #[test]
    fn places_and_neighbours_are_spread_evenly() {
        // Over many keys, place 0 of 10 goes everywhere equally often, and so does the distance from place 0 to place 1.
        let (n, keys) = (10, 20_000);
        let (mut places, mut distances) = ([0f64; 10], [0f64; 10]);
        for key in 0..keys {
            let (a, b) = (permute(0, n, mix(key)), permute(1, n, mix(key)));
            places[a as usize] += 1.0;
            distances[((b + n - a) % n) as usize] += 1.0;
        }
        let chi = |seen: &[f64], expected: f64| seen.iter().map(|s| (s - expected).powi(2) / expected).sum::<f64>();
        assert!(chi(&places, keys as f64 / 10.0) < 30.0, "{places:?}"); // 9 degrees of freedom: 30 is p = 0.0004
        assert_eq!(distances[0], 0.0);
        assert!(chi(&distances[1..], keys as f64 / 9.0) < 28.0, "{distances:?}");
    }
}
