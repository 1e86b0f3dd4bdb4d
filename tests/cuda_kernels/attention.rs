//! Flash attention, forwards and backwards, and the decoding of one row.
use crate::arguments;
use crate::numbers::{Answers, assert_within, choices, random};
use crate::simulator::{Buffer, NULL, Real, Simulator, each_real, mutated, sanitized};
use llm_train::ops::attention::{self, Heads};

/// Errors in the 2-norm: of the whole, and of the worst vector of D elements, measured by its own length or a tenth of the
/// mean length, whichever is more. A single wrong element would hardly move the first. bf16 rounds by at most 2⁻⁹ = 0.2 %;
/// p and ds are rounded once more.
fn assert_vectors(what: &str, got: &[f32], want: &[f32], d: usize) {
    let (mut square, mut wrong) = (0.0, 0.0);
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    for (g, w) in got.iter().zip(want) {
        square += f64::from(*w).powi(2);
        wrong += f64::from(g - w).powi(2);
    }
    assert!((wrong / square.max(1e-6)).sqrt() < 4e-3, "{what}: relative error {:.1e}", (wrong / square).sqrt());
    let floor = 0.1 * (square / (want.len() / d) as f64).sqrt() + 1e-3;
    for (i, (g, w)) in got.chunks(d).zip(want.chunks(d)).enumerate() {
        let length = norm(&mut w.iter().map(|w| f64::from(*w))).sqrt();
        let error = norm(&mut g.iter().zip(w).map(|(g, w)| f64::from(g - w))).sqrt();
        assert!(error < 8e-3 * length.max(floor), "{what}: vector {i} is off by {:.1e} of its length", error / length.max(floor));
    }
}

/// The definition of the backward, with δ = dy · y from the y that memory holds: where p is nearly all on one key, ds is what
/// is left of dy·v − δ, and the exact y would give another.
fn backward(dy: &[f32], y: &[f32], qkv: &[f32], h: Heads, starts: &[u32]) -> Vec<f32> {
    let (w, d, scale) = (h.width(), h.size, 1.0 / (h.size as f64).sqrt());
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut out = vec![0f64; qkv.len()];
    for n in 0..qkv.len() / w {
        let rows = n / h.seq * h.seq + starts[n] as usize..n + 1;
        for head in 0..h.q {
            let kv = head * h.kv / h.q;
            let (k, v) = ((h.q + kv) * d, (h.q + h.kv + kv) * d);
            let q = &qkv[n * w + head * d..][..d];
            let (g, y) = (&dy[(n * h.q + head) * d..][..d], &y[(n * h.q + head) * d..][..d]);
            let scores: Vec<f64> = rows.clone().map(|j| dot(q, &qkv[j * w + k..][..d]) * scale).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            for (j, s) in rows.clone().zip(&scores) {
                let p = (s - top).exp() / total;
                let ds = p * (dot(g, &qkv[j * w + v..][..d]) - dot(g, y)) * scale;
                for i in 0..d {
                    out[n * w + head * d + i] += ds * f64::from(qkv[j * w + k + i]);
                    out[j * w + k + i] += ds * f64::from(q[i]);
                    out[j * w + v + i] += p * f64::from(g[i]);
                }
            }
        }
    }
    out.iter().map(|x| *x as f32).collect()
}

/// Documents: starts that rise within each sequence.
fn documents(rows: usize, seq: usize, every: usize) -> Vec<u32> {
    let cut = choices("cuts", rows, every);
    let mut starts = vec![0; rows];
    for n in 0..rows {
        let at = (n % seq) as u32;
        starts[n] = if at == 0 {
            0
        } else if cut[n] == 0 {
            at
        } else {
            starts[n - 1]
        };
    }
    starts
}

/// Sequences of random queries, keys, values and gradients, in one shape.
struct Case {
    h: Heads,
    n: usize,
    what: String,
    qkv: Vec<f32>,
    dy: Vec<f32>,
    starts: Vec<u32>,
    documents: bool,
}

impl Case {
    /// `every`: a document's mean length; 0: one document a sequence.
    fn new(sim: &Simulator, (sequences, seq, q, kv, size, every): Shape) -> Case {
        let h = Heads { q, kv, size, seq };
        let n = sequences * seq;
        Case {
            h,
            n,
            what: format!("attention of {sequences} × {h:?}, documents of {every}"),
            qkv: sim.rounded(&random("qkv", n * h.width())),
            dy: sim.rounded(&random("dy", n * q * size)),
            starts: if every == 0 { vec![0; n] } else { documents(n, seq, every) },
            documents: every > 0,
        }
    }

    /// `got`: y, lse, dqkv.
    fn check(&self, sim: &Simulator, got: &[Buffer]) {
        let Case { h, n, what, qkv, dy, starts, .. } = self;
        let (h, n, w) = (*h, *n, h.width());
        let Heads { q, kv, size, .. } = h;
        let mut answers = Answers::default();
        let (y, lse, dqkv) = (answers.room(n, q * size), answers.room(n, q), answers.room(n, w));
        let (tqkv, tdy) = (answers.put(n, w, qkv), answers.put(n, q * size, dy));
        let dev = answers.device();
        attention::forward(&dev, y, lse, tqkv, h, Some(starts));
        attention::backward(&dev, dqkv, None, tdy, y, lse, tqkv, h, Some(starts));
        assert_vectors(&format!("{what}: y"), &sim.floats(&got[0]), &dev.read(y), size);
        assert_within(&format!("{what}: lse"), &got[1].to_vec::<f32>(), &dev.read(lse), 1e-6, 2e-6);
        // the definition above is the op's own, but for y
        let exact = backward(dy, &dev.read(y), qkv, h, starts);
        assert_within(&format!("{what}: two definitions"), &exact, &dev.read(dqkv), 1e-4, 1e-5);
        let want = backward(dy, &sim.floats(&got[0]), qkv, h, starts);
        let got = sim.floats(&got[2]);
        for (name, columns) in [("dq", 0..q), ("dk", q..q + kv), ("dv", q + kv..q + 2 * kv)] {
            let part = |x: &[f32]| -> Vec<f32> {
                x.chunks(w).flat_map(|row| row[columns.start * size..columns.end * size].to_vec()).collect()
            };
            assert_vectors(&format!("{what}: {name}"), &part(&got), &part(&want), size);
        }
    }
}

/// (sequences, T, H, K, D, a document's mean length)
type Shape = (usize, usize, usize, usize, usize, usize);

/// Those of the kernels on tensor cores.
fn tiled() -> &'static [Shape] {
    if mutated() {
        &[(1, 130, 4, 2, 64, 0), (1, 200, 2, 1, 64, 50)]
    } else if sanitized() {
        &[(2, 65, 4, 2, 64, 0), (1, 130, 2, 1, 128, 40)]
    } else {
        &[
            (2, 1, 2, 2, 64, 0),
            (1, 17, 4, 1, 128, 0),
            (2, 64, 2, 2, 64, 0),
            (2, 65, 6, 3, 64, 0),
            (1, 130, 2, 1, 128, 0),
            (2, 200, 2, 2, 64, 0),
            (2, 17, 2, 1, 64, 5),
            (1, 200, 4, 2, 64, 70),
            (1, 130, 2, 1, 128, 30),
            (1, 300, 2, 1, 64, 3),
        ]
    }
}

#[test]
fn attention() {
    let sim = Simulator::new(Real::Bf16);
    for &shape in tiled() {
        let case = Case::new(&sim, shape);
        let (sequences, seq, q, kv, size, _) = shape;
        let (qkvs, dys, marks) = (sim.real(&case.qkv), sim.real(&case.dy), Buffer::of(&case.starts));
        let marks: Option<&Buffer> = case.documents.then_some(&marks);
        let (tiles, tile, count) = (seq.div_ceil(64), 128 * size, case.n * q);
        let got = sim.in_every_order(|| {
            let (y, dqkv) = (sim.room(count * size), sim.room(case.qkv.len()));
            let (lse, delta) = (Buffer::fresh(4 * count), Buffer::fresh(4 * count));
            let arguments = arguments![&y, &lse, &qkvs, marks, seq, q, kv];
            sim.launch(&format!("attention_forward_{size}"), [tiles, q, sequences], 128, 5 * tile, arguments);
            let grid = (count * size).div_ceil(2048);
            sim.launch(&format!("attention_delta_{size}"), grid, 256, 0, arguments![&delta, &dys, &y, count]);
            let arguments = arguments![&dqkv, &dys, &qkvs, &lse, &delta, marks, seq, q, kv];
            sim.launch(&format!("attention_dq_{size}"), [tiles, q, sequences], 128, 6 * tile, arguments);
            sim.launch(&format!("attention_dkv_{size}"), [tiles, kv, sequences], 128, 6 * tile + 1536, arguments);
            vec![y, lse, dqkv]
        });
        case.check(&sim, &got);
    }
    assert_eq!(sim.conflicts(), 0, "bank conflicts of ldmatrix");
}

#[test]
fn attention_backward_in_one_pass() {
    let sim = Simulator::new(Real::Bf16);
    for &shape in tiled() {
        let case = Case::new(&sim, shape);
        let (sequences, seq, q, kv, size, _) = shape;
        let (qkvs, dys, marks) = (sim.real(&case.qkv), sim.real(&case.dy), Buffer::of(&case.starts));
        let marks: Option<&Buffer> = case.documents.then_some(&marks);
        let (tiles, tile, count) = (seq.div_ceil(64), 128 * size, case.n * q);
        let pass = || {
            let (y, dqkv) = (sim.room(count * size), sim.room(case.qkv.len()));
            let (lse, delta) = (Buffer::fresh(4 * count), Buffer::fresh(4 * count));
            let dq = Buffer::of(&vec![0f32; count * size]);
            let arguments = arguments![&y, &lse, &qkvs, marks, seq, q, kv];
            sim.launch(&format!("attention_forward_{size}"), [tiles, q, sequences], 128, 5 * tile, arguments);
            let grid = (count * size).div_ceil(2048);
            sim.launch(&format!("attention_delta_{size}"), grid, 256, 0, arguments![&delta, &dys, &y, count]);
            let arguments = arguments![&dqkv, &dq, &dys, &qkvs, &lse, &delta, marks, seq, q, kv];
            sim.launch(&format!("attention_dqkv_{size}"), [tiles, kv, sequences], 128, 6 * tile + 5632, arguments);
            let arguments = arguments![&dqkv, &dq, case.n as u64, q * size, case.h.width()];
            sim.launch("attention_dq_store", grid, 256, 0, arguments);
            vec![y, lse, dqkv]
        };
        sim.in_any_order(pass, |got| case.check(&sim, got));
    }
    assert_eq!(sim.conflicts(), 0, "bank conflicts of ldmatrix");
}

#[test]
fn plain() {
    let shapes: &[Shape] = if mutated() || sanitized() {
        &[(2, 19, 4, 2, 20, 6)]
    } else {
        &[
            (1, 1, 1, 1, 1, 0),
            (2, 9, 2, 1, 7, 0),
            (2, 19, 4, 2, 20, 6),
            (1, 40, 3, 3, 80, 9),
            (1, 33, 2, 1, 64, 0),
            (1, 9, 1, 1, 256, 0),
        ]
    };
    each_real(|sim| {
        for &shape in shapes {
            let case = Case::new(sim, shape);
            let (sequences, seq, q, kv, size, _) = shape;
            let (qkvs, dys, marks) = (sim.real(&case.qkv), sim.real(&case.dy), Buffer::of(&case.starts));
            let marks: Option<&Buffer> = case.documents.then_some(&marks);
            let (lanes, count) = (size.div_ceil(8).next_power_of_two(), case.n * q);
            let blocks = (seq * lanes).div_ceil(128);
            let got = sim.in_every_order(|| {
                let (y, dqkv) = (sim.room(count * size), sim.room(case.qkv.len()));
                let (lse, delta) = (Buffer::fresh(4 * count), Buffer::fresh(4 * count));
                let arguments = arguments![&y, &lse, &qkvs, marks, seq, q, kv, size, lanes];
                sim.launch("attention_plain_forward", [blocks, q, sequences], 128, 0, arguments);
                let arguments = arguments![&dqkv, &delta, &dys, &y, &qkvs, &lse, marks, seq, q, kv, size, lanes];
                sim.launch("attention_plain_dq", [blocks, q, sequences], 128, 0, arguments);
                let arguments = arguments![&dqkv, &dys, &qkvs, &lse, &delta, marks, seq, q, kv, size, lanes];
                sim.launch("attention_plain_dkv", [blocks, kv, sequences], 128, 0, arguments);
                vec![y, lse, dqkv]
            });
            case.check(sim, &got);
        }
    });
}

#[test]
fn a_nan_stays_in_its_rows() {
    let sim = Simulator::new(Real::Bf16);
    let h = Heads { q: 1, kv: 1, size: 64, seq: 70 };
    let mut qkv = random("qkv", 70 * h.width());
    qkv[66 * h.width()] = f32::NAN; // a query
    let (y, lse) = (sim.room(70 * 64), Buffer::fresh(4 * 70));
    sim.launch("attention_forward_64", [2, 1, 1], 128, 5 * 128 * 64, arguments![&y, &lse, &sim.real(&qkv), NULL, 70, 1, 1]);
    let bad: Vec<usize> = (0..70).filter(|r| sim.floats(&y)[r * 64..][..64].iter().any(|y| y.is_nan())).collect();
    assert_eq!(bad, [66]);
}

#[test]
fn decode() {
    let shapes: &[(usize, usize, usize, usize)] = if mutated() {
        &[(2, 1, 64, 70), (2, 1, 64, 3)]
    } else {
        &[(1, 1, 64, 1), (4, 2, 64, 5), (2, 1, 128, 100), (3, 3, 20, 21), (2, 1, 256, 9)]
    };
    each_real(|sim| {
        for &(q, kv, size, len) in shapes {
            let h = Heads { q, kv, size, seq: len };
            let (row, k, v) = (random("row", h.width()), random("k", len * kv * size), random("v", len * kv * size));
            let [row, k, v] = [row, k, v].map(|x| sim.rounded(&x));
            let [rows, ks, vs] = [&row, &k, &v].map(|x| sim.real(x));
            let got = sim.in_every_order(|| {
                let y = sim.room(q * size);
                let arguments = arguments![&y, &rows, &ks, &vs, len, q, kv, size];
                sim.launch("attention_decode", q, 256, 8 * (size + 2) * 4, arguments);
                vec![y]
            });
            let mut answers = Answers::default();
            let y = answers.room(1, q * size);
            let (row, k) = (answers.put(1, h.width(), &row), answers.put(len, kv * size, &k));
            let v = answers.put(len, kv * size, &v);
            let dev = answers.device();
            attention::decode(&dev, y, row, k, v, len, h);
            let what = format!("decode of {h:?}");
            match sim.real {
                Real::Bf16 => assert_vectors(&what, &sim.floats(&got[0]), &dev.read(y), size),
                Real::Float => assert_within(&what, &sim.floats(&got[0]), &dev.read(y), 1e-5, 1e-5),
            }
        }
    });
}
