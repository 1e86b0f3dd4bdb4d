// A step's verdict, from a few numbers of every rank: what AdamW multiplies the gradient by, and whether it acts at all.
//
//   words[r] = Σ loss | Σ gradient² of r's own part | two that the host gave        (ranks, 4) double
//   norm = √Σ_r words[r][1]        scale = min(limit / (norm + 1e-6), 1)        skip = loss or norm not finite
//
// Sums go over the ranks in their order, on every rank alike.

// What the host gives and what ops have added up here, which begins anew. mine (4): this rank's place among the words.
//   grid 1, block 1, shared 0
extern "C" __global__ void post(double* mine, double* kept, const double* host) {
    mine[0] = host[0] + kept[0];
    mine[1] = host[1] + kept[1];
    mine[2] = host[2];
    mine[3] = host[3];
    kept[0] = kept[1] = 0.0;
}

// scale as PyTorch's clip_grad_norm_ has it; limit 0: scale 1.
//   grid 1, block 1, shared 0
extern "C" __global__ void judge(float* scale, u32* skip, const double* words, int ranks, double limit) {
    double loss = 0.0, squares = 0.0;
    for (int r = 0; r < ranks; r++) loss += words[4 * r], squares += words[4 * r + 1];
    const double norm = sqrt(squares);
    scale[0] = limit > 0.0 ? (float)fmin(limit / (norm + 1e-6), 1.0) : 1.f;
    const double most = 1.7976931348623157e308;
    skip[0] = fabs(loss) <= most && norm <= most ? 0 : 1;
}
