// Convolutions and matrix products by oneDNN, float32 in and out, whose factors are rounded to
// bfloat16 and whose sums are float32.
//
// oneDNN chooses the layouts: what is given is brought into them and rounded on the way, and what
// comes out is brought back. It keeps its compiled primitives itself. How it shares the work out
// may depend on the number of threads, and with it the last bits of a weight's gradient.
//
// How fast depends on the processor's rate of bf16 products (benchmarks/step.py --precision bf16
// --against fp32): AMX and recent AMD processors have a multiple of float32's; on an Intel Xeon of
// 2023 without AMX it is half of it (93 against 188 GFLOP/s on a core), and all is slower.
#include "oneapi/dnnl/dnnl.hpp"

namespace bf16 {
namespace {
using namespace dnnl;
using Dims = memory::dims;
using Type = memory::data_type;
using Tag = memory::format_tag;

inline engine& cpu() {
    static engine only(engine::kind::cpu, 0);
    return only;
}

inline stream& queue() {
    static stream only(cpu());
    return only;
}

// An array of the caller's.
inline memory array(const float* values, const Dims& shape, Tag layout) {
    return memory({shape, Type::f32, layout}, cpu(), (void*)values);
}

inline memory::desc any(const Dims& shape, Type type) { return {shape, type, Tag::any}; }

// The same in another layout, or type.
inline memory arranged(memory given, const memory::desc& wanted) {
    if (given.get_desc() == wanted) return given;
    memory result(wanted, cpu());
    reorder(given, result).execute(queue(), given, result);
    return result;
}

// Run `what`; `result` gets what it puts out as `which`, in the layout `made`.
inline void run(const primitive& what, std::unordered_map<int, memory> arguments, int which,
                const memory::desc& made, memory result) {
    const bool as_it_is = result.get_desc() == made;
    memory out = as_it_is ? result : memory(made, cpu());
    arguments.insert({which, out});
    what.execute(queue(), arguments);
    if (!as_it_is) reorder(out, result).execute(queue(), out, result);
}

// y [n, K, h', w'] of x [n, C, h, w] and the filters w [K, C / groups, kh, kw].
struct Convolution {
    Dims x, w, y, stride, padding, dilation;
    Tag filters;

    Convolution(Dims x, Dims w, Dims y, int groups, Dims stride, Dims padding, Dims dilation)
        : x(x), w(w), y(y), stride(stride), padding(padding), dilation(dilation),
          filters(groups > 1 ? Tag::goihw : Tag::oihw) {
        for (auto& step : this->dilation) step--;  // oneDNN counts the pixels between
        if (groups > 1) this->w = {groups, w[0] / groups, w[1], w[2], w[3]};
    }

    convolution_forward::primitive_desc forward_of(Type out) const {
        return {{prop_kind::forward_training, algorithm::convolution_direct, any(x, Type::bf16),
                 any(w, Type::bf16), any(y, out), stride, dilation, padding, padding}, cpu()};
    }

    void forward(const float* px, const float* pw, float* py) const {
        const auto way = forward_of(Type::f32);
        run(convolution_forward(way),
            {{DNNL_ARG_SRC, arranged(array(px, x, Tag::nchw), way.src_desc())},
             {DNNL_ARG_WEIGHTS, arranged(array(pw, w, filters), way.weights_desc())}},
            DNNL_ARG_DST, way.dst_desc(), array(py, y, Tag::nchw));
    }

    void input_gradient(const float* pdy, const float* pw, float* pdx) const {
        const convolution_backward_data::primitive_desc way(
            {algorithm::convolution_direct, any(x, Type::f32), any(w, Type::bf16), any(y, Type::bf16),
             stride, dilation, padding, padding}, cpu(), forward_of(Type::bf16));
        run(convolution_backward_data(way),
            {{DNNL_ARG_DIFF_DST, arranged(array(pdy, y, Tag::nchw), way.diff_dst_desc())},
             {DNNL_ARG_WEIGHTS, arranged(array(pw, w, filters), way.weights_desc())}},
            DNNL_ARG_DIFF_SRC, way.diff_src_desc(), array(pdx, x, Tag::nchw));
    }

    void weight_gradient(const float* px, const float* pdy, float* pdw) const {
        const convolution_backward_weights::primitive_desc way(
            {algorithm::convolution_direct, any(x, Type::bf16), any(w, Type::f32), any(y, Type::bf16),
             stride, dilation, padding, padding}, cpu(), forward_of(Type::bf16));
        run(convolution_backward_weights(way),
            {{DNNL_ARG_SRC, arranged(array(px, x, Tag::nchw), way.src_desc())},
             {DNNL_ARG_DIFF_DST, arranged(array(pdy, y, Tag::nchw), way.diff_dst_desc())}},
            DNNL_ARG_DIFF_WEIGHTS, way.diff_weights_desc(), array(pdw, w, filters));
    }
};

// c [m, n] = a [m, k] b [k, n], row-major; turned: a is [k, m], b is [n, k].
inline void product(const float* a, bool a_turned, const float* b, bool b_turned, float* c,
                    int64_t m, int64_t n, int64_t k) {
    const matmul::primitive_desc way({any({m, k}, Type::bf16), any({k, n}, Type::bf16),
                                      any({m, n}, Type::f32)}, cpu());
    run(matmul(way),
        {{DNNL_ARG_SRC, arranged(array(a, {m, k}, a_turned ? Tag::ba : Tag::ab), way.src_desc())},
         {DNNL_ARG_WEIGHTS,
          arranged(array(b, {k, n}, b_turned ? Tag::ba : Tag::ab), way.weights_desc())}},
        DNNL_ARG_DST, way.dst_desc(), array(c, {m, n}, Tag::ab));
}
}  // namespace
}  // namespace bf16
