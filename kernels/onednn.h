// Convolutions and matrix products by oneDNN, float32 in and out, with float32 sums. What calls it
// puts the constants BF16 (whether factors are rounded to bfloat16) and CHANNELS_LAST (how images
// lie in memory: [n, h, w, channels], or [n, channels, h, w]) before it.
//
// oneDNN chooses the layouts: what is given is brought into them (and rounded on the way), and what
// comes out is brought back; but for images that have their channels last, which its kernels take
// and give as they are. It keeps its compiled primitives itself. How it shares the work out may
// depend on the number of threads, and with it the last bits of a weight's gradient.
#include "oneapi/dnnl/dnnl.hpp"

namespace onednn {
namespace {
using namespace dnnl;
using Dims = memory::dims;
using Type = memory::data_type;
using Tag = memory::format_tag;

constexpr Type FACTORS = BF16 ? Type::bf16 : Type::f32;
constexpr Tag IMAGES = CHANNELS_LAST ? Tag::nhwc : Tag::nchw;

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

inline memory::desc images(const Dims& shape, Type type) {
    return {shape, type, CHANNELS_LAST ? Tag::nhwc : Tag::any};
}

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
        return {{prop_kind::forward_training, algorithm::convolution_direct, images(x, FACTORS),
                 any(w, FACTORS), images(y, out), stride, dilation, padding, padding}, cpu()};
    }

    void forward(const float* px, const float* pw, float* py) const {
        const auto way = forward_of(Type::f32);
        run(convolution_forward(way),
            {{DNNL_ARG_SRC, arranged(array(px, x, IMAGES), way.src_desc())},
             {DNNL_ARG_WEIGHTS, arranged(array(pw, w, filters), way.weights_desc())}},
            DNNL_ARG_DST, way.dst_desc(), array(py, y, IMAGES));
    }

    void input_gradient(const float* pdy, const float* pw, float* pdx) const {
        const convolution_backward_data::primitive_desc way(
            {algorithm::convolution_direct, images(x, Type::f32), any(w, FACTORS),
             images(y, FACTORS), stride, dilation, padding, padding}, cpu(), forward_of(FACTORS));
        run(convolution_backward_data(way),
            {{DNNL_ARG_DIFF_DST, arranged(array(pdy, y, IMAGES), way.diff_dst_desc())},
             {DNNL_ARG_WEIGHTS, arranged(array(pw, w, filters), way.weights_desc())}},
            DNNL_ARG_DIFF_SRC, way.diff_src_desc(), array(pdx, x, IMAGES));
    }

    void weight_gradient(const float* px, const float* pdy, float* pdw) const {
        const convolution_backward_weights::primitive_desc way(
            {algorithm::convolution_direct, images(x, FACTORS), any(w, Type::f32),
             images(y, FACTORS), stride, dilation, padding, padding}, cpu(), forward_of(FACTORS));
        run(convolution_backward_weights(way),
            {{DNNL_ARG_SRC, arranged(array(px, x, IMAGES), way.src_desc())},
             {DNNL_ARG_DIFF_DST, arranged(array(pdy, y, IMAGES), way.diff_dst_desc())}},
            DNNL_ARG_DIFF_WEIGHTS, way.diff_weights_desc(), array(pdw, w, filters));
    }
};

// c [m, n] = a [m, k] b [k, n], row-major; turned: a is [k, m], b is [n, k].
inline void product(const float* a, bool a_turned, const float* b, bool b_turned, float* c,
                    int64_t m, int64_t n, int64_t k) {
    const matmul::primitive_desc way({any({m, k}, FACTORS), any({k, n}, FACTORS),
                                      any({m, n}, Type::f32)}, cpu());
    run(matmul(way),
        {{DNNL_ARG_SRC, arranged(array(a, {m, k}, a_turned ? Tag::ba : Tag::ab), way.src_desc())},
         {DNNL_ARG_WEIGHTS,
          arranged(array(b, {k, n}, b_turned ? Tag::ba : Tag::ab), way.weights_desc())}},
        DNNL_ARG_DST, way.dst_desc(), array(c, {m, n}, Tag::ab));
}
}  // namespace
}  // namespace onednn
