/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.c: the model and its gradients, float32. Knows no ranks: train_text.c adds up what passes over blocks of samples leave in
 * model.grad.
 */
#include "examples/train_text/train_text.h"
#include <math.h>
#include <string.h>

struct model model;

static struct {
    float *x, *h1, *h2, *out, *dx, *d1, *d2;
    float *w1t, *w2t, *w3t; /* transposed weights */
} pass;

void model_create(void)
{
    size_t v = (size_t)text.symbols, e = (size_t)args.embed, k = (size_t)args.context,
           h = (size_t)args.hidden;
    size_t parts[PARTS] = {v * e, k * e * h, h, h * h, h, h * v, v},
           fan[PARTS] = {1, k * e, 0, h, 0, h, 0};
    for (int p = 0; p < PARTS; p++)
        model.at[p + 1] = model.at[p] + parts[p];
    size_t all = model.at[PARTS];
    model.value = zeroed(all, sizeof(float));
    model.grad = zeroed(all, sizeof(float));
    model.mean = zeroed(all, sizeof(float));
    model.square = zeroed(all, sizeof(float));
    model.sum = zeroed(all + 1, sizeof(double));
    pass.w1t = zeroed(parts[W1], sizeof(float));
    pass.w2t = zeroed(parts[W2], sizeof(float));
    pass.w3t = zeroed(parts[W3], sizeof(float));
    for (int p = 0; p < PARTS; p++)
        for (size_t i = model.at[p]; fan[p] && i < model.at[p + 1]; i++)
            model.value[i] =
                ((float)(mix(77, i) >> 40) / (float)(1 << 23) - 1) / sqrtf((float)fan[p]);
    pass.x = zeroed(BLOCK * k * e, sizeof(float));
    pass.dx = zeroed(BLOCK * k * e, sizeof(float));
    pass.h1 = zeroed(BLOCK * h, sizeof(float));
    pass.d1 = zeroed(BLOCK * h, sizeof(float));
    pass.h2 = zeroed(BLOCK * h, sizeof(float));
    pass.d2 = zeroed(BLOCK * h, sizeof(float));
    pass.out = zeroed(BLOCK * v, sizeof(float));
}

static float *part(int p)
{
    return model.value + model.at[p];
}

/* c[rows][cols] += a * b[inner][cols]; a(i, k) = a[i*down + k*right], so that a may be used transposed. Four rows of b at a
 * time, along which the compiler vectorises. */
static void multiply(float *restrict c, const float *restrict a, size_t down, size_t right,
                     const float *restrict b, size_t rows, size_t inner, size_t cols)
{
    for (size_t i = 0; i < rows; i++) {
        float *restrict row = c + i * cols;
        size_t k = 0;
        for (; k + 4 <= inner; k += 4) {
            const float *restrict b0 = b + k * cols, *restrict b1 = b0 + cols,
                                  *restrict b2 = b1 + cols, *restrict b3 = b2 + cols;
            const float *ai = a + i * down + k * right;
            float a0 = ai[0], a1 = ai[right], a2 = ai[2 * right], a3 = ai[3 * right];
            for (size_t j = 0; j < cols; j++)
                row[j] += (a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]);
        }
        for (; k < inner; k++)
            for (size_t j = 0; j < cols; j++)
                row[j] += a[i * down + k * right] * b[k * cols + j];
    }
}

static void transpose(float *to, const float *from, size_t rows, size_t cols)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            to[j * rows + i] = from[i * cols + j];
}

void model_new_step(void)
{
    size_t h = (size_t)args.hidden;
    transpose(pass.w1t, part(W1), (size_t)(args.context * args.embed), h);
    transpose(pass.w2t, part(W2), h, h);
    transpose(pass.w3t, part(W3), h, (size_t)text.symbols);
}

static void layer(float *out, const float *in, const float *w, const float *bias, size_t n,
                  size_t from, size_t to, bool squash)
{
    for (size_t s = 0; s < n; s++)
        memcpy(out + s * to, bias, to * sizeof(*out));
    multiply(out, in, from, 1, w, n, from, to);
    for (size_t i = 0; squash && i < n * to; i++)
        out[i] = tanhf(out[i]);
}

float *model_forward(const unsigned char *ids, const size_t *at, size_t n)
{
    size_t v = (size_t)text.symbols, e = (size_t)args.embed, k = (size_t)args.context,
           h = (size_t)args.hidden;
    for (size_t s = 0; s < n; s++)
        for (size_t c = 0; c < k; c++)
            memcpy(pass.x + (s * k + c) * e, part(EMBED) + ids[at[s] - k + c] * e,
                   e * sizeof(float));
    layer(pass.h1, pass.x, part(W1), part(B1), n, k * e, h, true);
    layer(pass.h2, pass.h1, part(W2), part(B2), n, h, h, true);
    layer(pass.out, pass.h2, part(W3), part(B3), n, h, v, false);
    return pass.out;
}

double model_loss(const size_t *at, size_t n)
{
    size_t v = (size_t)text.symbols;
    double loss = 0;
    for (size_t s = 0; s < n; s++) {
        float *o = pass.out + s * v, most = o[0], sum = 0;
        for (size_t j = 1; j < v; j++)
            most = o[j] > most ? o[j] : most;
        for (size_t j = 0; j < v; j++)
            sum += o[j] = expf(o[j] - most);
        size_t want = text.id[at[s]];
        loss -= log((double)o[want] / (double)sum);
        for (size_t j = 0; j < v; j++)
            o[j] /= sum;
        o[want] -= 1;
    }
    return loss;
}

/* Gradients of one layer's weights and bias; then of its inputs, which had passed through tanh if `in` is given. */
static void layer_back(int w, const float *in, const float *d, const float *wt, float *din,
                       size_t n, size_t from, size_t to, bool squashed)
{
    float *gw = model.grad + model.at[w], *gb = model.grad + model.at[w + 1];
    multiply(gw, in, 1, from, d, from, n, to);
    for (size_t s = 0; s < n; s++)
        for (size_t j = 0; j < to; j++)
            gb[j] += d[s * to + j];
    memset(din, 0, n * from * sizeof(*din));
    multiply(din, d, to, 1, wt, n, to, from);
    for (size_t i = 0; squashed && i < n * from; i++)
        din[i] *= 1 - in[i] * in[i];
}

void model_backward(const size_t *at, size_t n)
{
    size_t v = (size_t)text.symbols, e = (size_t)args.embed, k = (size_t)args.context,
           h = (size_t)args.hidden;
    memset(model.grad, 0, model.at[PARTS] * sizeof(float));
    layer_back(W3, pass.h2, pass.out, pass.w3t, pass.d2, n, h, v, true);
    layer_back(W2, pass.h1, pass.d2, pass.w2t, pass.d1, n, h, h, true);
    layer_back(W1, pass.x, pass.d1, pass.w1t, pass.dx, n, k * e, h, false);
    for (size_t s = 0; s < n; s++)
        for (size_t c = 0; c < k; c++) {
            float *g = model.grad + text.id[at[s] - k + c] * e, *d = pass.dx + (s * k + c) * e;
            for (size_t j = 0; j < e; j++)
                g[j] += d[j];
        }
}

void model_adam(int step)
{
    const float b1 = 0.9f, b2 = 0.999f, tiny = 1e-8f;
    float c1 = 1 - powf(b1, (float)step), c2 = 1 - powf(b2, (float)step);
    for (size_t i = 0; i < model.at[PARTS]; i++) {
        float g = (float)(model.sum[i] / args.batch);
        model.mean[i] = b1 * model.mean[i] + (1 - b1) * g;
        model.square[i] = b2 * model.square[i] + (1 - b2) * g * g;
        model.value[i] -= args.rate * (model.mean[i] / c1) / (sqrtf(model.square[i] / c2) + tiny);
    }
}
