// libcublaslt.cpp: cuBLASLt's matrix product on the CPU, column-major, of bf16 or float:
//
//   acc[i,j] = Σ_k op(A)[i,k] op(B)[k,j]        in float, k rising
//   D        = epilogue(alpha acc + beta C)     stored as bf16 or float
//
//   BIAS           x + bias[i]
//   GELU, .._AUX   the tanh form; AUX keeps x before it           DGELU   x · GELU'(aux[i,j])
//   .._BGRAD       with DGELU: bias[i] = Σ_j of the result        BGRADB  bias[j] = Σ_k op(B)[k,j]
//
// Where the compute type is FAST_TF32, float operands are rounded to 10 bits of mantissa first, to nearest, ties away (cvt.rna.tf32).
// The workspace is overwritten by every product. What this cannot show: whether the real library has an algorithm for a
// combination; here the heuristic finds two, whose results are the same, and none for the epilogues of $STUB_NO_EPILOGUES
// ("164,192"). What the documentation asks for is refused where it is missing: addresses of bias and aux before the search,
// which looks at their alignment, a leading dimension of aux that is a multiple of 8, bias and aux of D's type, a workspace
// on 256 bytes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "driver.h"

namespace {

enum Status : int { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type : int { F32 = 0, BF16 = 14 };
enum Compute : int { COMPUTE_32F = 68, FAST_TF32 = 77 };

// Bits of cublasLtEpilogue_t: the others are sums of these.
constexpr unsigned BIAS = 4, BGRAD = 16, GELU = 32, AUX = 128, DGELU = 192, BGRADB = 512;
constexpr unsigned KNOWN[] = {1, BIAS, GELU, GELU | BIAS, GELU | AUX, GELU | AUX | BIAS, DGELU, DGELU | BGRAD, BGRADB};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
};

struct Description {
    int compute, scale;
    int transpose_a = 0, transpose_b = 0;
    unsigned epilogue = 1;
    uint64_t bias = 0, aux = 0;
    int64_t aux_ld = 0;
    int bias_type = -1, aux_type = -1;   // −1: that of D
};

struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};   // that the caller promises for A, B, C, D
};

struct Algorithm {
    uint64_t magic, workspace;
    uint32_t alignment[4];
    uint64_t number;
    uint32_t pointers[2];   // alignment of bias and aux
    uint64_t unused[2];
};
static_assert(sizeof(Algorithm) == 64, "cublasLtMatmulAlgo_t has 64 bytes");
constexpr uint64_t MAGIC = 0x5354554258474d4dull;

struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

size_t size_of(int type) { return type == BF16 ? 2 : 4; }

float load(uint64_t base, int64_t i, int type) { return type == F32 ? ((const float*)base)[i] : stub::widen(((const uint16_t*)base)[i]); }
void store(uint64_t base, int64_t i, int type, float x) {
    if (type == F32) ((float*)base)[i] = x;
    else ((uint16_t*)base)[i] = stub::narrow(x);
}

float tf32(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7f800000) != 0x7f800000) bits = (bits + 0x1000) & ~0x1fffu;   // neither infinite nor NaN
    return memcpy(&x, &bits, 4), x;
}

size_t extent(const Layout& l) { return ((l.columns - 1) * l.ld + l.rows) * size_of(l.type); }

constexpr float SCALE = 0.7978845608f, CUBE = 0.044715f;   // √(2/π)
float gelu(float x) { return 0.5f * x * (1 + tanhf(SCALE * (x + CUBE * x * x * x))); }
float gelu_slope(float x) {
    const float t = tanhf(SCALE * (x + CUBE * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * SCALE * (1 + 3 * CUBE * x * x);
}

struct Problem {
    Description d;
    Layout a, b, c, out;
    uint64_t A, B, C, D, workspace;
    size_t workspace_bytes;
    float alpha, beta;
    int64_t M, N, K;
};

// op(X) as floats, its rows along k.
std::vector<float> gather(uint64_t base, const Layout& l, bool k_is_column, int64_t K, int64_t other, int compute) {
    std::vector<float> dense(K * other);
    for (int64_t k = 0; k < K; k++)
        for (int64_t i = 0; i < other; i++) dense[k * other + i] = load(base, k_is_column ? i + k * l.ld : k + i * l.ld, l.type);
    if (compute == FAST_TF32 && l.type == F32)
        for (float& x : dense) x = tf32(x);
    return dense;
}

void multiply(const Problem& p) {
    memset((void*)p.workspace, 0xff, p.workspace_bytes);
    const int64_t M = p.M, N = p.N, K = p.K;
    const std::vector<float> a = gather(p.A, p.a, !p.d.transpose_a, K, M, p.d.compute);
    const std::vector<float> b = gather(p.B, p.b, p.d.transpose_b, K, N, p.d.compute);
    const unsigned epilogue = p.d.epilogue;
    const bool slope = (epilogue & DGELU) == DGELU;
    const int bias_type = p.d.bias_type < 0 ? p.out.type : p.d.bias_type, aux_type = p.d.aux_type < 0 ? p.out.type : p.d.aux_type;
    std::vector<float> column(M), sums(std::max(M, N));
    for (int64_t j = 0; j < N; j++) {
        std::fill(column.begin(), column.end(), 0.f);
        for (int64_t k = 0; k < K; k++) {
            const float by = b[k * N + j];
            const float* from = &a[k * M];
            for (int64_t i = 0; i < M; i++) column[i] += from[i] * by;
            if (epilogue == BGRADB) sums[j] += by;
        }
        for (int64_t i = 0; i < M; i++) {
            float x = p.alpha * column[i];
            // With beta = 0, C is not read: it may hold anything, NaN included.
            if (p.beta != 0) x += p.beta * load(p.C, i + j * p.c.ld, p.c.type);
            if (epilogue & BIAS) x += load(p.d.bias, i, bias_type);
            const int64_t aux = i + j * p.d.aux_ld;
            if (slope) {
                x *= gelu_slope(load(p.d.aux, aux, aux_type));
                sums[i] += x;
            } else {
                if (epilogue & AUX) store(p.d.aux, aux, aux_type, x);
                if (epilogue & GELU) x = gelu(x);
            }
            store(p.D, i + j * p.out.ld, p.out.type, x);
        }
    }
    if (epilogue & (BGRAD | BGRADB))
        for (int64_t i = 0; i < (epilogue == BGRADB ? N : M); i++) store(p.d.bias, i, bias_type, sums[i]);
}

// Bytes that divide an address, up to 256.
uint32_t alignment(uint64_t at) { return std::min<uint64_t>(at & (~at + 1), 256); }

bool uses_bias(unsigned epilogue) { return epilogue & (BIAS | BGRAD | BGRADB); }
bool uses_aux(unsigned epilogue) { return epilogue & AUX; }

// Whether "4,164" lists a number.
bool lists(const std::string& list, unsigned number) { return ("," + list + ",").find("," + std::to_string(number) + ",") != std::string::npos; }

int refuse(const char* why) { return fprintf(stderr, "stub libcublasLt: %s\n", why), INVALID_VALUE; }

// Shapes, types and epilogue, as far as they are known without pointers.
int check(Problem& p) {
    const Description& d = p.d;
    p.M = d.transpose_a ? p.a.columns : p.a.rows;
    p.K = d.transpose_a ? p.a.rows : p.a.columns;
    p.N = d.transpose_b ? p.b.rows : p.b.columns;
    if (p.K != (int64_t)(d.transpose_b ? p.b.columns : p.b.rows)) return refuse("the inner dimensions of A and B differ");
    if ((int64_t)p.out.rows != p.M || (int64_t)p.out.columns != p.N) return refuse("D has not the shape of op(A) op(B)");
    if (p.c.rows != p.out.rows || p.c.columns != p.out.columns || p.c.type != p.out.type) return refuse("C and D differ");
    for (const Layout* l : {&p.a, &p.b, &p.c, &p.out}) {
        if (l->type != F32 && l->type != BF16) return NOT_SUPPORTED;
        if (l->ld < (int64_t)l->rows) return refuse("a leading dimension is smaller than the matrix");
    }
    if (p.a.type != p.b.type || (p.a.type == F32 && p.out.type == BF16)) return NOT_SUPPORTED;
    const bool epilogue = std::find(std::begin(KNOWN), std::end(KNOWN), d.epilogue) != std::end(KNOWN);
    if (d.scale != F32 || !epilogue) return NOT_SUPPORTED;
    if (uses_bias(d.epilogue) && !d.bias) return refuse("this epilogue needs a BIAS_POINTER");
    if (uses_bias(d.epilogue) && d.bias_type >= 0 && d.bias_type != p.out.type) return NOT_SUPPORTED;
    if (uses_aux(d.epilogue) && (!d.aux || d.aux_ld < p.M || d.aux_ld % 8)) return refuse("EPILOGUE_AUX: no pointer, or a wrong leading dimension");
    if (uses_aux(d.epilogue) && d.aux_type >= 0 && d.aux_type != p.out.type) return NOT_SUPPORTED;
    return SUCCESS;
}

// Attributes come as a number, a buffer and its size, which must be that of the field.
template <class T>
int assign(T& field, const void* buffer, size_t bytes) {
    if (bytes != sizeof(T)) return INVALID_VALUE;
    return memcpy(&field, buffer, bytes), SUCCESS;
}

}   // namespace

STUB_API int cublasLtCreate(void** handle) { return *handle = new int(0), SUCCESS; }
STUB_API int cublasLtDestroy(void* handle) { return delete (int*)handle, SUCCESS; }
STUB_API size_t cublasLtGetVersion() { return 130000; }
STUB_API int cublasLtMatrixLayoutCreate(void** out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    return *out = new Layout{type, rows, columns, ld}, SUCCESS;
}
STUB_API int cublasLtMatrixLayoutDestroy(void* layout) { return delete (Layout*)layout, SUCCESS; }
STUB_API int cublasLtMatmulDescCreate(void** out, int compute, int scale) {
    if (compute != COMPUTE_32F && compute != FAST_TF32) return NOT_SUPPORTED;
    return *out = new Description{compute, scale}, SUCCESS;
}
STUB_API int cublasLtMatmulDescDestroy(void* description) { return delete (Description*)description, SUCCESS; }
STUB_API int cublasLtMatmulDescSetAttribute(void* description, int attribute, const void* buffer, size_t bytes) {
    Description& d = *(Description*)description;
    switch (attribute) {
        case 3: return assign(d.transpose_a, buffer, bytes);
        case 4: return assign(d.transpose_b, buffer, bytes);
        case 7: return assign(d.epilogue, buffer, bytes);
        case 8: return assign(d.bias, buffer, bytes);
        case 11: return assign(d.aux, buffer, bytes);
        case 12: return assign(d.aux_ld, buffer, bytes);
        case 22: return assign(d.aux_type, buffer, bytes);
        case 26: return assign(d.bias_type, buffer, bytes);
        default: return NOT_SUPPORTED;
    }
}
STUB_API int cublasLtMatmulPreferenceCreate(void** out) { return *out = new Preference{}, SUCCESS; }
STUB_API int cublasLtMatmulPreferenceDestroy(void* preference) { return delete (Preference*)preference, SUCCESS; }
STUB_API int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* buffer, size_t bytes) {
    Preference& p = *(Preference*)preference;
    if (attribute == 1) return assign(p.workspace, buffer, bytes);
    if (attribute >= 5 && attribute <= 8) return assign(p.alignment[attribute - 5], buffer, bytes);
    return SUCCESS;   // the rest only guides the search
}
STUB_API int cublasLtMatmulAlgoGetHeuristic(void*, void* description, void* a, void* b, void* c, void* d, void* preference, int requested,
                                            Found* results, int* found) {
    Problem p{*(Description*)description, *(Layout*)a, *(Layout*)b, *(Layout*)c, *(Layout*)d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    *found = 0;
    if (int status = check(p)) return status;
    if (lists(stub::setting("STUB_NO_EPILOGUES", ""), p.d.epilogue)) return NOT_SUPPORTED;
    const Preference& wanted = *(Preference*)preference;
    for (int i = 0; i < std::min(requested, 2); i++) {
        memset(&results[i], 0, sizeof results[i]);
        results[i].algorithm.magic = MAGIC;
        results[i].algorithm.number = i;
        results[i].algorithm.pointers[0] = alignment(p.d.bias);
        results[i].algorithm.pointers[1] = alignment(p.d.aux);
        results[i].algorithm.workspace = results[i].workspace = std::min<uint64_t>(wanted.workspace, 1 << 20);
        memcpy(results[i].algorithm.alignment, wanted.alignment, sizeof wanted.alignment);
        results[i].waves = 1;
        ++*found;
    }
    return SUCCESS;
}

STUB_API int cublasLtMatmul(void*, void* description, const void* alpha, const void* A, void* a, const void* B, void* b, const void* beta,
                            const void* C, void* c, void* D, void* d, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                            void* stream) {
    auto p = std::make_shared<Problem>(Problem{*(Description*)description, *(Layout*)a, *(Layout*)b, *(Layout*)c, *(Layout*)d, (uint64_t)A,
                                               (uint64_t)B, (uint64_t)C, (uint64_t)D, (uint64_t)workspace, 0, *(const float*)alpha,
                                               *(const float*)beta, 0, 0, 0});
    if (int status = check(*p)) return status;
    if (!algorithm || algorithm->magic != MAGIC) return refuse("the algorithm does not come from the heuristic");
    if (workspace_bytes < algorithm->workspace) return refuse("the workspace is smaller than the algorithm's");
    p->workspace_bytes = algorithm->workspace;
    const uint64_t pointers[] = {p->A, p->B, p->C, p->D};
    for (int i = 0; i < 4; i++)
        if (pointers[i] % algorithm->alignment[i]) return refuse("a pointer is less aligned than was promised to the heuristic");
    if ((uint64_t)workspace % 256) return refuse("the workspace does not lie on 256 bytes");
    const unsigned epilogue = p->d.epilogue;
    if (uses_bias(epilogue) && p->d.bias % algorithm->pointers[0]) return refuse("the bias is less aligned than in the search");
    if (uses_aux(epilogue) && p->d.aux % algorithm->pointers[1]) return refuse("aux is less aligned than in the search");

    stub::Operation op;
    op.text = "matmul m=" + std::to_string(p->M) + " n=" + std::to_string(p->N) + " k=" + std::to_string(p->K) + " op=" +
              (p->d.transpose_a ? "T" : "N") + (p->d.transpose_b ? "T" : "N") + " types=" + (p->a.type == BF16 ? "bf16" : p->d.compute == FAST_TF32 ? "tf32" : "f32") + "->" +
              (p->out.type == BF16 ? "bf16" : "f32") + " epilogue=" + std::to_string(epilogue) + " w:" + stub::show(D) + " r:" + stub::show(A) +
              " r:" + stub::show(B);
    op.accesses = {stub::reads(A, extent(p->a)), stub::reads(B, extent(p->b)), stub::writes(D, extent(p->out)), stub::writes(workspace, p->workspace_bytes)};
    if (p->beta != 0) {
        op.text += " c:" + stub::show(C);
        op.accesses.push_back(stub::reads(C, extent(p->c)));
    }
    if (uses_bias(epilogue)) {
        const bool written = !(epilogue & BIAS);
        const size_t bytes = (epilogue == BGRADB ? p->N : p->M) * size_of(p->d.bias_type < 0 ? p->out.type : p->d.bias_type);
        op.text += std::string(written ? " bias-w:" : " bias-r:") + stub::show((void*)p->d.bias);
        op.accesses.push_back({p->d.bias, bytes, written});
    }
    if (uses_aux(epilogue)) {
        const bool written = (epilogue & DGELU) != DGELU;
        const size_t bytes = ((p->N - 1) * p->d.aux_ld + p->M) * size_of(p->d.aux_type < 0 ? p->out.type : p->d.aux_type);
        op.text += std::string(written ? " aux-w:" : " aux-r:") + stub::show((void*)p->d.aux);
        op.accesses.push_back({p->d.aux, bytes, written});
    }
    op.run = [p] { multiply(*p); };
    stub::submit(stream, std::move(op));
    return SUCCESS;
}
