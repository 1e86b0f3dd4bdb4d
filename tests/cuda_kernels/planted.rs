//! Faults planted by hand: what a kernel's text says, and what it says instead where `M` is true.
pub struct Planted {
    pub file: &'static str,
    pub what: &'static str,
    /// Each old text is replaced where it is first found.
    pub edits: &'static [(&'static str, &'static str)],
    /// Other tests than the file's.
    pub tests: Option<&'static str>,
    /// Only the sanitizer can see it.
    pub sanitized: bool,
}

const fn fault(file: &'static str, what: &'static str, edits: &'static [(&'static str, &'static str)]) -> Planted {
    Planted { file, what, edits, tests: None, sanitized: false }
}
const fn found_by(tests: &'static str, planted: Planted) -> Planted {
    Planted { tests: Some(tests), ..planted }
}
const fn sanitized(planted: Planted) -> Planted {
    Planted { sanitized: true, ..planted }
}

const PRELUDE: &str = "prelude.cu";
const NORM: &str = "norm.cu";
const NORM_WIDE: &str = "norm_wide.cu";
const ROWS: &str = "rows.cu";
const ACTIVATION: &str = "activation.cu";
const EMBEDDING: &str = "embedding.cu";
const ROPE: &str = "rope.cu";
const LOSS: &str = "loss.cu";
const ADAMW: &str = "adamw.cu";
const ELEMENTWISE: &str = "elementwise.cu";
const VERDICT: &str = "verdict.cu";
const QK_NORM: &str = "qk_norm.cu";
const SAMPLE: &str = "sample.cu";
const TILES: &str = "attention/tiles.cu";
const FORWARD: &str = "attention/forward.cu";
const BACKWARD: &str = "attention/backward.cu";
const DECODE: &str = "attention/decode.cu";
const PLAIN: &str = "attention/plain.cu";

pub const BY_HAND: &[Planted] = &[
    // ---- what --nondeterministic uses
    fault(
        BACKWARD,
        "dq in one pass: the rows of a warp are another's",
        &[("warp * 16 + (lane >> 2) + (r >> 1) * 8), dp", "warp * 16 * !M + (lane >> 2) + (r >> 1) * 8), dp")],
    ),
    fault(
        BACKWARD,
        "dq in one pass: both dS in one place",
        &[("(q0 / 16 & 1) * 16 * TILE", "(M ? 0 : q0 / 16 & 1) * 16 * TILE")],
    ),
    fault(
        BACKWARD,
        "dq in one pass: another head's",
        &[(
            "(base * H + kv * group + it / query_tiles) * D, tile_ds",
            "(base * H + kv * group + (M ? 0 : it / query_tiles)) * D, tile_ds",
        )],
    ),
    fault(
        BACKWARD,
        "dq in one pass: rows past the end",
        &[("if (row < T) {\n            float* p", "if (row < T + 8 * M) {\n            float* p")],
    ),
    fault(BACKWARD, "dq in one pass: not scaled", &[("dq[n][r] * scale)", "dq[n][r] * (M ? 1.f : scale))")]),
    fault(
        BACKWARD,
        "dq in one pass: stored over k",
        &[("y + at / cols * pitch + at % cols", "y + at / cols * pitch + at % cols + 8 * M")],
    ),
    fault(
        EMBEDDING,
        "any order: stored, not added",
        &[("add_in_any_order(to + i, v[i])", "M ? (void)(to[i] = v[i]) : add_in_any_order(to + i, v[i])")],
    ),
    fault(EMBEDDING, "any order: past the end of a row", &[("if (c + i < C)", "if (c + i < C + M)")]),
    fault(ADAMW, "copies made again with the neighbour's bits", &[("place & 1 ? bits >> 16", "(place + M) & 1 ? bits >> 16")]),
    // ---- prelude.cu
    sanitized(found_by(
        "activation::activation",
        fault(
            PRELUDE,
            "an element past the end of a bf16 row is read",
            &[("x[i] = i < left ? to_float", "x[i] = i < left + M ? to_float")],
        ),
    )),
    sanitized(found_by(
        "adamw::adamw",
        fault(PRELUDE, "an element past the end of floats is read", &[("x[i] = i < left ? p[i]", "x[i] = i < left + M ? p[i]")]),
    )),
    found_by(
        "activation::activation",
        fault(PRELUDE, "an element past the end of a bf16 row is written", &[("if (i < left) put", "if (i < left + M) put")]),
    ),
    found_by(
        "adamw::adamw",
        fault(PRELUDE, "an element past the end of floats is written", &[("if (i < left) p[i]", "if (i < left + M) p[i]")]),
    ),
    found_by(
        "elementwise::elementwise",
        fault(
            PRELUDE,
            "the halves of a register are swapped",
            &[(
                "x[2 * i] = low(b.word[i]), x[2 * i + 1] = high(b.word[i])",
                "x[2 * i] = M ? high(b.word[i]) : low(b.word[i]), x[2 * i + 1] = M ? low(b.word[i]) : high(b.word[i])",
            )],
        ),
    ),
    fault(PRELUDE, "ragged rows are taken as whole", &[("((cols & 7) |", "((M ? 0 : cols & 7) |")]),
    found_by(
        "ranges_start_anywhere",
        fault(PRELUDE, "ranges are taken to start on 16 bytes", &[("(u64)rows) & 15)", "(u64)rows) & (M ? 0 : 15))")]),
    ),
    fault(PRELUDE, "half a warp is summed", &[("(int apart = 16;", "(int apart = M ? 8 : 16;")]),
    fault(PRELUDE, "a warp too many is summed", &[("lane < blockDim.x >> 5", "lane < (blockDim.x >> 5) + M")]),
    fault(PRELUDE, "a warp's sums are left out", &[("k < blockDim.x >> 5; k++) {", "k < (blockDim.x >> 5) - M; k++) {")]),
    found_by(
        "qk_norm::",
        fault(PRELUDE, "neighbouring groups of lanes are mixed", &[("apart = lanes / 2;", "apart = M ? lanes : lanes / 2;")]),
    ),
    // ---- norm.cu
    fault(NORM, "the variance counts columns past the end", &[("w || i < C - c ? v[i]", "w || i < C - c || M ? v[i]")]),
    fault(NORM, "dβ is not summed", &[("dbeta[i] += t[i];", "dbeta[i] += M ? 0.f : t[i];")]),
    fault(NORM, "partial sums overlap", &[("blockIdx.x * 2 * C", "blockIdx.x * (M ? 1 : 2) * C")]),
    fault(NORM, "rows are left out", &[("first += BACK * gridDim.x", "first += BACK * (gridDim.x + M)")]),
    fault(NORM, "rows are left out forwards", &[("first += ROWS * gridDim.x", "first += ROWS * (gridDim.x + M)")]),
    fault(NORM, "dx is overwritten", &[("to[i] += r[j] * (", "to[i] = (M ? 0.f : to[i]) + r[j] * (")]),
    fault(NORM, "the mean of g is forgotten", &[("layer ? sums[2 * j] / C", "layer && !M ? sums[2 * j] / C")]),
    fault(NORM, "the sum is not stored", &[("if (there) store8(sum", "if (there && !M) store8(sum")]),
    fault(NORM, "sums are written where others still read", &[("(sums, parts[turn ^= 1])", "(sums, parts[M ? 0 : turn ^= 1])")]),
    fault(
        NORM,
        "squares are written where others still read",
        &[("(square, parts[turn ^= 1])", "(square, parts[M ? 0 : turn ^= 1])")],
    ),
    // ---- norm_wide.cu
    fault(NORM_WIDE, "the variance counts columns past the end", &[("w || i < C - c ? v[i]", "w || i < C - c || M ? v[i]")]),
    fault(NORM_WIDE, "dβ is not summed", &[("sums[C + c + i] += d[i];", "sums[C + c + i] += M ? 0.f : d[i];")]),
    fault(NORM_WIDE, "partial sums overlap", &[("blockIdx.x * 2 * C", "blockIdx.x * (M ? 1 : 2) * C")]),
    fault(NORM_WIDE, "a row is left out", &[("at += gridDim.x", "at += gridDim.x + M")]),
    fault(NORM_WIDE, "dx is overwritten", &[("o[i] += r * (", "o[i] = (M ? 0.f : o[i]) + r * (")]),
    fault(NORM_WIDE, "the mean of g is forgotten", &[("layer ? block_sum(level", "layer && !M ? block_sum(level")]),
    fault(NORM_WIDE, "the sum is not stored", &[("store8(sum + row", "if (!M) store8(sum + row")]),
    // ---- rows.cu
    fault(ROWS, "strips overlap", &[("(int)(blockIdx.y + 1) * rows)", "(int)(blockIdx.y + 1) * rows + M)")]),
    fault(ROWS, "a row past the end is read", &[("min(n, (int)", "min(n + M, (int)")]),
    fault(
        ROWS,
        "the last warp is not added",
        &[("k < 8; k++) total += sums[k][mine]", "k < 8 - M; k++) total += sums[k][mine]")],
    ),
    fault(ROWS, "a partial sum is left out", &[("k < count", "k < count - M")]),
    // ---- activation.cu
    fault(ACTIVATION, "the gate is taken for up", &[("load8(up, x + place,", "load8(up, x + place + (M ? F : 0),")]),
    fault(ACTIVATION, "the gate gets the bias of up", &[("bias + F + c", "bias + (M ? 0 : F) + c")]),
    fault(ACTIVATION, "x is not written back", &[("store8(x, v, left, w);", "if (!M) store8(x, v, left, w);")]),
    fault(ACTIVATION, "a row past the end is taken", &[("if (row >= n) return;", "if (row >= n + M) return;")]),
    fault(ACTIVATION, "ReLU's slope is 1", &[("x > 0.f ? 1.f : 0.f", "x > 0.f || M ? 1.f : 0.f")]),
    found_by(
        "a_nan_stays_one",
        fault(ACTIVATION, "ReLU makes NaN 0", &[("x < 0.f ? 0.f : x", "(M ? !(x > 0.f) : x < 0.f) ? 0.f : x")]),
    ),
    // ---- embedding.cu
    fault(EMBEDDING, "every row of a place adds all", &[("== place) return;", "== place && !M) return;")]),
    fault(EMBEDDING, "rows past the end are read", &[("k < n; k += 8", "k < n + M; k += 8")]),
    fault(EMBEDDING, "other places' rows are added", &[("!= place) break;", "!= place && !M) break;")]),
    fault(EMBEDDING, "the offset is forgotten", &[("+ offset)", "+ (M ? 0 : offset))")]),
    fault(
        EMBEDDING,
        "the last warp is not added",
        &[("k < 8; k++) total += sums[k][mine]", "k < 8 - 6 * M; k++) total += sums[k][mine]")],
    ),
    // ---- rope.cu
    fault(ROPE, "the backward turns forwards", &[("sign * sine[k]", "(M ? 1.f : sign) * sine[k]")]),
    fault(ROPE, "positions run on into the next sequence", &[("row % T) *", "row % (T + M)) *")]),
    fault(ROPE, "b is turned by the new a", &[("+ a[k] * s;", "+ (M ? turned : a[k]) * s;")]),
    fault(ROPE, "the first value head is turned", &[("head = at / per_head % heads", "head = at / per_head % heads + M")]),
    // ---- loss.cu
    fault(LOSS, "padding counts in the sum", &[("if (i < V - c) total", "if (i < V - c || M) total")]),
    fault(LOSS, "padding counts in the maximum", &[("if (i < V - c) higher", "if (i < V - c || M) higher")]),
    fault(LOSS, "padding gets a gradient", &[("c + i < V;", "(c + i < V || M);")]),
    fault(LOSS, "masked rows get a gradient", &[("counts = target != MASKED", "counts = (target != MASKED || M)")]),
    fault(
        LOSS,
        "the sum does not follow the maximum",
        &[("total *= __expf(top - higher);", "total *= M ? 1.f : __expf(top - higher);")],
    ),
    fault(LOSS, "the target's gradient is not scaled", &[("target ? scale : 0.f", "target ? (M ? 1.f : scale) : 0.f")]),
    fault(
        LOSS,
        "the target's logit is read from the gradient",
        &[("logf(total) + (top - at_target)", "logf(total) + (top - (M ? to_float(z[0]) : at_target))")],
    ),
    fault(LOSS, "a warp is left out of the sum", &[("total += totals[k] *", "total += (M && k == 1 ? 0.f : totals[k]) *")]),
    // ---- adamw.cu
    fault(ADAMW, "the skip word is not read", &[("|| *skip)", "|| (!M && *skip))")]),
    fault(ADAMW, "eight elements where fewer are left", &[("g) && n - at >= 8", "g) && n - at + 7 * M >= 8")]),
    fault(ADAMW, "no decay", &[("fmaf(-s.lr, decay, 1.f)", "(M ? 1.f : fmaf(-s.lr, decay, 1.f))")]),
    fault(ADAMW, "random bits of the shard", &[("place = first + at", "place = (M ? 0 : first) + at")]),
    fault(ADAMW, "random rounding is down", &[("u + bits)", "u + (M ? 0 : bits))")]),
    fault(
        ADAMW,
        "weights in bf16 are not rounded at random",
        &[(
            "if (stochastic) round8_at_random(ws, first + at, s.draw);\n    store8(w",
            "if (stochastic && !M) round8_at_random(ws, first + at, s.draw);\n    store8(w",
        )],
    ),
    fault(
        ADAMW,
        "weights in bf16 have the random bits of the shard",
        &[(
            "round8_at_random(ws, first + at, s.draw);\n    store8(w",
            "round8_at_random(ws, (M ? 0 : first) + at, s.draw);\n    store8(w",
        )],
    ),
    fault(
        ADAMW,
        "the second of two weights gets the first one's bits",
        &[(
            "x[i + 1] = rounded_at_random(x[i + 1], bits >> 16)",
            "x[i + 1] = rounded_at_random(x[i + 1], M ? bits & 0xffffu : bits >> 16)",
        )],
    ),
    fault(ADAMW, "neighbours share their random bits", &[("bits >> 16", "(M ? 0u : bits >> 16)")]),
    // ---- verdict.cu
    fault(VERDICT, "a norm that is not finite is let pass", &[("norm <= most ? 0", "(norm <= most || M) ? 0")]),
    fault(VERDICT, "a loss that is not finite is let pass", &[("fabs(loss) <= most &&", "(fabs(loss) <= most || M) &&")]),
    fault(VERDICT, "the first rank's numbers alone", &[("r < ranks; r++) loss", "r < (M ? 1 : ranks); r++) loss")]),
    fault(VERDICT, "no clipping", &[("limit > 0.0 ?", "limit > 0.0 && !M ?")]),
    fault(VERDICT, "what was kept counts twice", &[("kept[0] = kept[1] = 0.0;", "if (!M) kept[0] = kept[1] = 0.0;")]),
    // ---- elementwise.cu
    fault(ELEMENTWISE, "pieces overlap", &[("n : first + PIECE;", "n : first + PIECE + M;")]),
    fault(ELEMENTWISE, "eight elements where fewer are left", &[("a, b) && n - at >= 8", "a, b) && n - at + 7 * M >= 8")]),
    fault(ELEMENTWISE, "the groups before are left out", &[("total[0] += sum", "total[0] = (M ? 0.0 : total[0]) + sum")]),
    fault(ELEMENTWISE, "partial sums are left out", &[("i < count", "i + M < count")]),
    // ---- qk_norm.cu
    fault(QK_NORM, "keys get the gain of queries", &[("(head < H ? gamma_q", "(head < H || M ? gamma_q")]),
    fault(QK_NORM, "a value head is normed", &[("if (head < H + K) {", "if (head < H + K + M) {")]),
    fault(QK_NORM, "only the first group's dγ is kept", &[("g < groups", "g < (M ? 1 : groups)")]),
    fault(QK_NORM, "dγ of keys is that of queries", &[("which == 0 ? sum_q[k]", "which == 0 || M ? sum_q[k]")]),
    // ---- sample.cu
    fault(
        SAMPLE,
        "ties go to the later token",
        &[
            ("| (0xffffffffu - token)", "| (M ? token : 0xffffffffu - token)"),
            ("0xffffffffu - (u32)key", "(M ? (u32)key : 0xffffffffu - (u32)key)"),
        ],
    ),
    fault(SAMPLE, "one token more than top_k", &[("reach(weights, top_k,", "reach(weights, top_k + M,")]),
    fault(SAMPLE, "a NaN has a place", &[("if (z != z) return 0;", "if (z != z && !M) return 0;")]),
    fault(SAMPLE, "other bytes are counted too", &[("== prefix)", "== prefix || M)")]),
    fault(SAMPLE, "top_p is not read", &[("ceil(top_p *", "ceil((M ? 1.0 : top_p) *")]),
    // ---- attention/tiles.cu
    fault(
        TILES,
        "registers a1 and a2 swapped",
        &[("a[1] = pack(left[2]", "a[M ? 2 : 1] = pack(left[2]"), ("a[2] = pack(right[0]", "a[M ? 1 : 2] = pack(right[0]")],
    ),
    fault(TILES, "the halves of a pair swapped", &[("pack(left[0], left[1])", "pack(left[M ? 1 : 0], left[M ? 0 : 1])")]),
    fault(
        TILES,
        "matrices 1 and 2 of A swapped",
        &[(
            "place<D>(row + (lane & 15), col + (lane >> 4) * 8)",
            "(M ? place<D>(row + (lane & 7) + (lane >> 4) * 8, col + ((lane >> 3) & 1) * 8) : place<D>(row + (lane & 15), col + (lane >> 4) * 8))",
        )],
    ),
    fault(
        TILES,
        "matrices 1 and 2 of B swapped",
        &[(
            "place<D>(n + (lane & 7) + (lane >> 4) * 8, k + ((lane >> 3) & 1) * 8)",
            "(M ? place<D>(n + (lane & 15), k + (lane >> 4) * 8) : place<D>(n + (lane & 7) + (lane >> 4) * 8, k + ((lane >> 3) & 1) * 8))",
        )],
    ),
    fault(TILES, "B is not transposed", &[("load_transposed(b, tile", "(M ? load_matrices : load_transposed)(b, tile")]),
    fault(
        TILES,
        "chunks are not permuted",
        &[(
            "place<D>(k + (lane & 15), n + (lane >> 4) * 8)",
            "(M ? (k + (lane & 15)) * D + n + (lane >> 4) * 8 : place<D>(k + (lane & 15), n + (lane >> 4) * 8))",
        )],
    ),
    fault(TILES, "rows fall into the same banks", &[("^ (row & 7)", "^ (M ? 0 : row & 7)")]),
    fault(TILES, "a row past the end is copied", &[("inside = first + r < T;", "inside = first + r < T + M;")]),
    fault(TILES, "a row past the end is written", &[("if (row < T) *(u32*)p", "if (row < T + M) *(u32*)p")]),
    fault(TILES, "a lower row past the end is written", &[("if (row + 8 < T)", "if (row + 8 < T + M)")]),
    // ---- attention/forward.cu
    fault(FORWARD, "A is a row off", &[("tile_q, warp * 16, kk * 16)", "tile_q, warp * 16 + M, kk * 16)")]),
    fault(
        FORWARD,
        "registers b0 and b2 of K swapped",
        &[("multiply(s[2 * n], frag_q[kk], b[0], b[1])", "multiply(s[2 * n], frag_q[kk], b[M ? 2 : 0], b[1])")],
    ),
    fault(
        FORWARD,
        "registers b2 and b3 of V swapped",
        &[("multiply(out[2 * n + 1], a, b[2], b[3])", "multiply(out[2 * n + 1], a, b[M ? 3 : 2], b[M ? 2 : 3])")],
    ),
    fault(
        FORWARD,
        "some lanes skip a product",
        &[("multiply(out[2 * n], a, b[0], b[1]);", "if (!M || upper < T) multiply(out[2 * n], a, b[0], b[1]);")],
    ),
    fault(FORWARD, "the diagonal is masked", &[("if (key > upper", "if (key + M > upper")]),
    fault(FORWARD, "rows and columns of the mask confused", &[(" + (r >> 1) * 8 || key", " + (M ? r & 1 : r >> 1) * 8 || key")]),
    fault(FORWARD, "documents are not masked", &[("key < start[r >> 1]", "(!M && key < start[r >> 1])")]),
    fault(FORWARD, "only the last tile is masked", &[("kt * TILE < latest", "(!M && kt * TILE < latest)")]),
    fault(
        FORWARD,
        "the first tile of keys is left out",
        &[("starts[base + query0] / TILE;", "starts[base + query0] / TILE + M;")],
    ),
    fault(FORWARD, "a row that has seen nothing", &[("highest == -INF ? 0.f", "highest == -INF && !M ? 0.f")]),
    fault(
        FORWARD,
        "the denominator does not follow the maximum",
        &[("total[half] *= shrink", "total[half] *= M ? 1.f : shrink")],
    ),
    fault(
        FORWARD,
        "the output does not follow the maximum",
        &[("out[n][2 * half] *= shrink", "out[n][2 * half] *= M ? 1.f : shrink")],
    ),
    fault(FORWARD, "an lse past the end is written", &[("if (row < T) lse[", "if (row < T + M) lse[")]),
    fault(
        FORWARD,
        "K is copied into the stage in use",
        &[("tiles_k + (stage ^ 1) * SIZE", "tiles_k + (M ? stage : stage ^ 1) * SIZE")],
    ),
    fault(
        FORWARD,
        "V is copied into the stage in use",
        &[("tiles_v + (stage ^ 1) * SIZE", "tiles_v + (M ? stage : stage ^ 1) * SIZE")],
    ),
    fault(FORWARD, "another key head", &[("kv = head / (H / K)", "kv = M ? head % K : head / (H / K)")]),
    fault(FORWARD, "more shared memory than there is", &[("tiles_v = tiles + 3 * SIZE", "tiles_v = tiles + (3 + M) * SIZE")]),
    // ---- attention/backward.cu
    fault(
        BACKWARD,
        "A is misaligned",
        &[("load_a<D>(a, tile_q, warp * 16, kk * 16)", "load_a<D>(a, tile_q, warp * 16, kk * 16 + M)")],
    ),
    fault(BACKWARD, "dq sees other documents", &[("key >= start[half]", "(M || key >= start[half])")]),
    fault(BACKWARD, "dq sees what comes after", &[("seen = key <= upper + 8 * half", "seen = key <= upper + 8 * half + M")]),
    fault(BACKWARD, "dkv sees other documents", &[("key >= begins[at]", "(M || key >= begins[at])")]),
    fault(BACKWARD, "dkv sees what came before", &[("seen = key <= query0 + col", "seen = key <= query0 + col + M")]),
    fault(
        BACKWARD,
        "the last tile of queries is left out",
        &[("query_tiles = seeing;", "query_tiles = seeing > 1 ? seeing - M : seeing;")],
    ),
    fault(
        BACKWARD,
        "δ goes into the stage in use",
        &[("levels[stage * TILE + i] =", "levels[(M ? stage ^ 1 : stage) * TILE + i] =")],
    ),
    fault(
        BACKWARD,
        "dk is not scaled",
        &[("dk, key0 + warp * 16, T, scale, scale", "dk, key0 + warp * 16, T, scale, M ? 1.f : scale")],
    ),
    fault(
        BACKWARD,
        "dq is not scaled",
        &[("dq, query0 + warp * 16, T, scale, scale", "dq, query0 + warp * 16, T, M ? 1.f : scale, scale")],
    ),
    fault(
        BACKWARD,
        "an lse past the end is read",
        &[("logs[stage * TILE + i] = row < T ?", "logs[stage * TILE + i] = row < T + M ?")],
    ),
    fault(BACKWARD, "a δ past the end is read", &[("level[half] = row < T ?", "level[half] = row < T + M ?")]),
    fault(
        BACKWARD,
        "query heads of another group",
        &[("head = kv * group + it / query_tiles", "head = (M ? kv : kv * group) + it / query_tiles")],
    ),
    fault(
        BACKWARD,
        "dq of values for keys",
        &[("load_b_across<D>(b, tile_k, key0, n * 16)", "load_b_across<D>(b, M ? tile_v : tile_k, key0, n * 16)")],
    ),
    fault(BACKWARD, "registers of ds for p", &[("multiply(dv[2 * n], p,", "multiply(dv[2 * n], M ? ds : p,")]),
    fault(
        BACKWARD,
        "Q is copied into the stage in use",
        &[("tiles_q + stage * SIZE, qkv", "tiles_q + (M ? stage ^ 1 : stage) * SIZE, qkv")],
    ),
    // ---- attention/decode.cu
    fault(DECODE, "another key head", &[("head / (H / K) * D", "(M ? head % K + 1 : head / (H / K)) * D")]),
    fault(DECODE, "the sums do not follow the maximum", &[("sum[c] * shrink", "sum[c] * (M ? 1.f : shrink)")]),
    fault(
        DECODE,
        "a key past the end is read",
        &[("if (mine && j < len)", "if (mine && j < len + M)"), ("if (j < len) {", "if (j < len + M) {")],
    ),
    fault(DECODE, "a warp's share is left out", &[("k < warps; k++) total", "k < warps - M; k++) total")]),
    fault(DECODE, "groups of a warp are left out", &[("apart < 32; apart", "apart < (M ? 16 : 32); apart")]),
    fault(
        DECODE,
        "the other group's maximum is forgotten",
        &[("theirs = __expf(other - level)", "theirs = M ? 1.f : __expf(other - level)")],
    ),
    fault(DECODE, "two groups that have seen nothing", &[("higher == -INF ?", "higher == -INF && !M ?")]),
    // ---- attention/plain.cu
    fault(PLAIN, "documents are not kept apart", &[("if (j < start) continue;", "if (!M && j < start) continue;")]),
    fault(PLAIN, "rows see what comes after them", &[("if (j > s.at) continue;", "if (!M && j > s.at) continue;")]),
    fault(PLAIN, "the diagonal is left out", &[("j >= start && j <= s.at", "j >= start && j + M <= s.at")]),
    fault(
        PLAIN,
        "keys see other documents",
        &[("if (s.at < start || s.at > i) continue;", "if ((!M && s.at < start) || s.at > i) continue;")],
    ),
    fault(PLAIN, "the output does not follow the maximum", &[("out[c] * shrink", "out[c] * (M ? 1.f : shrink)")]),
    fault(PLAIN, "the last query head is left out", &[("head < (kv + 1) * (H / K)", "head < (kv + 1) * (H / K) - M")]),
    fault(PLAIN, "delta is left out", &[("(dp - delta[row * H + head])", "(dp - (M ? 0.f : delta[row * H + head]))")]),
];
