"""What Jittor 1.3.11.0 needs changed for this year's Python and NumPy, as it is imported and
compiled.

Nothing is written into the installed package, which several users may share; any other version of
Jittor is left as it is.

* Python 3.13: exec no longer writes into a function's locals(), from which Jittor takes the modules
  it has compiled.
* Python 3.14: a process that is started is a fork of this one no longer, but a new Python, which
  runs the user's script once more, as those that compile Jittor did. They are forks again, and so
  are those that load Jittor's own data sets.
* NumPy 2: its array descriptor has another layout than the one that Jittor's header knows
  (numpy/ndarraytypes.h), and the function that copies an array which is not contiguous has another
  place in NumPy's table. One build serves NumPy 1 and 2.
* Where the compiler's flags are others than those its cache was made with, Jittor ended the process
  with code 0, to be started again by hand. It goes on now: its helper is compiled anew while the
  old one is loaded, as in every first start.
* A thread that compiles kernels could miss the word to stop, given before it listened, and the
  process hung for ever at its end.
* GCC 15: no other header brings <cstdint> along any more, which Jittor's types.h takes for granted,
  and a mistake in a template that nobody uses (stack_vector.h) is an error.
* GCC 16: its C++ library makes other random numbers of the same seed, so that on the CPU the same
  command began with other weights. It is told to make those that every GCC before it made.
* What a compiler that fails has said goes with the error (compiling.py makes a sentence of it) and
  no longer to the screen.
* cuDNN is asked for its choice of an algorithm once for each shape of a convolution; without
  Jittor's timing of all of them it was asked in each convolution of every step.
* Paths with a space: Jittor quotes most of them on its command lines, and now all.
* Kernels that are compiled while a run goes on report themselves on stderr in lines of their own,
  in a log too: now on a terminal only, in one line that is gone afterwards.
* While one process compiled a kernel, no other could compile another one: the lock is now the
  kernel's.
* Element by element (norms that are frozen, ReLU, sums of two images, updates) Jittor computed on
  one core, however many there are: large arrays are now shared among all, in parts that do not
  depend on how many these are, and so neither do the bits. What adds up an axis stays as it is.
* The first start takes little more than half the time (benchmarks/compile.py): Jittor's own tests
  and an example of oneDNN's are not compiled, the core with -O1 instead of -O2, its data beside the
  other files and not before them, the largest files first; the helper that compiles, which Jittor
  compiles twice because only the helper itself can note what it was made of, has its files compiled
  side by side, the first time without optimization; and a kernel goes through Jittor's assembly
  tuner, a Python program with an assembler run of its own, only where there is something to tune.
"""
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

from system.files import write
from toolchain.base import ToolchainError, cache_folder, gcc_version

JITTOR = "1.3.11.0"
# {module: [(text that is there once, what takes its place), ...]}
SOURCES = {
    "jittor.compiler": [
        ("mod = locals()[gen_name]", "mod = os.sys.modules[gen_name]"),
        ("files = registers + files2 + files4\n",
         "files = registers + files2 + [os.environ['packnet_mended'] + '/' + file "
         "if file in os.environ['packnet_files'].split() else file "
         "for file in files4 if 'src/test/' not in file]\n"),
        ("def gen_jit_tests():\n"
         """    all_src = glob.glob(jittor_path+"/src/**/*.cc", recursive=True)\n""",
         "def gen_jit_tests():\n"
         "    all_src = [file for file in "
         """glob.glob(jittor_path+"/src/**/*.cc", recursive=True) if "src/test/" not in file]\n"""),
        ("""        opt_flags += " -O2 "\n""", """        opt_flags += " -O1 "\n"""),
        ("""            f.write(data.decode("utf8"))\n""",
         """            f.write(f'#pragma GCC system_header\\n"""
         """#include "{jittor_path}/src/utils/vdp"\\n' + data.decode("utf8"))\n"""),
        ("""        run_cmd(fix_cl_flags(f"\\"{cc_path}\\" {dflags} -include \\"{vdp}\\" """
         """\\"{data_s_path}\\" -c -o \\"{data_o_path}\\""))\n"""
         "        os.remove(data_s_path)\n",
         ""),
        ("    files.append(data_o_path)\n",
         "    files.append(os.path.join(cache_path, 'data.cc'))\n"),
        ("""    recompile = compile(cc_path, cc_flags+f" {opt_flags} ", files, """
         """jit_utils.cache_path+'/jit_utils_core'+extension_suffix, True)
    if recompile and jit_utils.cc:
        LOG.e("jit_utils updated, please rerun your command.")
        sys.exit(0)
""",
         """    optimized = opt_flags if jit_utils.cc else "-O0"
    compile(cc_path, cc_flags+f" {optimized} ", files, """
         """jit_utils.cache_path+'/jit_utils_core'+extension_suffix)
"""),
        ("""        # recompile, generate cache key
        compile(cc_path, cc_flags+f" {opt_flags} ", files, """
         """jit_utils.cache_path+'/jit_utils_core'+extension_suffix, True)
""",
         """        compile(cc_path, cc_flags+f" {opt_flags} ", files, """
         """jit_utils.cache_path+'/jit_utils_core'+extension_suffix)
"""),
        ("    for input, obj_file in zip(inputs, obj_files):\n",
         "    for input, obj_file in sorted(zip(inputs, obj_files), "
         "key=lambda pair: -os.path.getsize(pair[0])):\n"),
        ("            run_cmd(cmd)\n", "            run_cmd(cmd, print_error=False)\n"),
        (""""src/utils/log.cc",""", """os.environ['packnet_mended'] + '/src/utils/log.cc',"""),
        ("log_v=0 {sys.executable} -m", """log_v=0 '{sys.executable}' -m""")],
    "jittor.compile_extern": [
        ("for name in os.listdir(mkl_op_dir)]",
         "for name in os.listdir(mkl_op_dir) "
         "if not name.startswith(('cpu_cnn_inference', 'mkl_test'))]"),
        ("""    culib = compile_custom_ops(culib_src_files, return_module=True,
        extra_flags=f" -I\\"{jt_cuda_include}\\" -I\\"{jt_culib_include}\\" {link_flags}""",
         """    for file in os.environ['packnet_files'].split():
        if (path := os.path.join(jittor_path, file)) in culib_src_files:
            mended = os.path.join(os.environ['packnet_mended'], file)
            culib_src_files[culib_src_files.index(path)] = mended
    culib = compile_custom_ops(culib_src_files, return_module=True,
        extra_flags=f" -I\\"{jt_cuda_include}\\" -I\\"{jt_culib_include}\\" {link_flags}""")],
    "jittor.dataset.dataset": [
        ("import multiprocessing as mp\n",
         'import multiprocessing\nmp = multiprocessing.get_context("fork")\n')],
    "jittor_utils": [
        ("from multiprocessing import Pool\n",
         'import multiprocessing\nPool = multiprocessing.get_context("fork").Pool\n'),
        ("mod = locals()[hash]", "mod = sys.modules[hash]"),
        ("        run_cmd(cmd)\n        return True",
         "        run_cmd(cmd, print_error=False)\n        return True"),
        ("""run_cmd(get_py3_config_path()+" --includes")""",
         """run_cmd(f"'{get_py3_config_path()}' --includes")"""),
        ("""run_cmd(get_py3_config_path()+" --extension-suffix")""",
         """run_cmd(f"'{get_py3_config_path()}' --extension-suffix")""")]}
# Holds one kernel's file while it is compiled: a byte of the lock for each. The lock is the opened
# file's (OFD), not the process's, whose threads compile side by side.
KERNEL_LOCK = """struct KernelLock {
    int file;
    explicit KernelLock(const string& jit_key) {
        file = open((cache_path + "/kernels.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        CHECK(file >= 0) << "Cannot open kernels.lock in" << cache_path;
        struct flock byte = {};
        byte.l_type = F_WRLCK;
        byte.l_whence = SEEK_SET;
        byte.l_start = std::hash<string>{}(jit_key) >> 2;
        byte.l_len = 1;
        CHECK(fcntl(file, F_OFD_SETLKW, &byte) == 0) << "Cannot lock kernels.lock in" << cache_path;
    }
    ~KernelLock() { close(file); }
};

"""
# Loops of a kernel of which no round needs another's result: all of them but the innermost are one
# for OpenMP. Where there is only one, it is cut into blocks of a length that vectors divide.
SHARED_LOOPS = """static void share_loops(FusedOp* op, KernelIR* ir) {
    if (!op->flags.get(NodeFlags::_cpu)) return;
    for (Op* part : op->ops)
        if (part->type() != OpType::element && part->type() != OpType::broadcast) return;
    for (auto& outer : ir->children) {
        if (outer->type != "loop" || outer->inner.size() != 3 || outer->before.size()) continue;
        int loops = 1;
        string rounds = "int64(" + outer->attrs["rvalue"] + ")";
        KernelIR* inner = outer.get();
        while (inner->children.size() == 1 && inner->children[0]->type == "loop") {
            inner = inner->children[0].get();
            rounds += "*" + inner->attrs["rvalue"];
            loops++;
        }
        bool simple = inner->inner.size() == 3 && inner->before.empty();
        for (auto& part : inner->children) simple &= part->type != "loop";
        if (!simple) continue;
        string share = "#pragma omp parallel for if(" + rounds + " >= 65536)";
        if (loops > 1) share += " collapse(" + S(loops-1) + ")";
        else {
            string type = outer->attrs["dtype"], i = outer->attrs["lvalue"],
                   end = outer->attrs["rvalue"];
            share += "\\nfor ("+type+" block = 0; block < "+end+"; block += 16384)";
            outer->inner[0]->attrs["rvalue"] = "block";
            outer->inner[1]->attrs["code"] =
                i+" < ("+end+"-block < 16384 ? "+end+" : block+16384);";
        }
        outer->push_back("#pragma omp", &outer->before, true);
        outer->before[0]->attrs["code"] = share;  // the parser takes one line
        inner->push_back("#pragma GCC ivdep", &inner->before, true);
    }
}

"""
# The same for source files of the core, by their path in the package.
CORE = {
    "src/parallel_compiler.cc": [
        ("#include <atomic>\n", "#include <atomic>\n#include <unistd.h>\n"),
        ("if (diff > 2e9) {", "if (diff > 2e9 && isatty(2)) {"),
        ("""                std::cerr << "\\n";\n""", ""),
        ("""<< "Compiling Operators(" << i << '/' << n << ")"\n""",
         """<< "\\r\\033[KCompiling kernels: " << i << '/' << n\n"""),
        ("        std::cerr << std::endl;\n", '        std::cerr << "\\r\\033[K" << std::flush;\n'),
        ("    jittor::lock_guard lg;\n", ""),
        ("    std::condition_variable cv;\n",
         "    std::condition_variable cv;\n    bool launched = false;\n"),
        ("        this->func = func;\n", "        this->func = func;\n        launched = true;\n"),
        ("""            if (func)
                func(id);
            while (true) {
                cv.wait(lck);
""", """            while (true) {
                cv.wait(lck, [this] { return launched; });
                launched = false;
""")],
    "src/op_compiler.cc": [("    jittor::lock_guard lg;\n", "")],
    "src/opt/pass_manager.cc": [
        ("void PassManager::run_passes() {", SHARED_LOOPS + "void PassManager::run_passes() {"),
        ("    run_pass<FakeMainPass>();\n", "    run_pass<FakeMainPass>();\n"
         "    share_loops(oc->op, main_ir);\n")],
    "src/jit_compiler.cc": [
        ("""        cmd = python_path+" "+jittor_path+"/utils/asm_tuner.py \"""",
         """        if (src.find("@begin") != string::npos) """
         """cmd = "'"+python_path+"' '"+jittor_path+"/utils/asm_tuner.py' \""""),
        ("#include <mutex>\n", "#include <mutex>\n#include <fcntl.h>\n#include <unistd.h>\n"),
        ("static string get_symbol_name(", KERNEL_LOCK + "static string get_symbol_name("),
        ("    string other_src;\n", "    string other_src;\n    KernelLock lock(jit_key);\n"),
        ("""fix_cl_flags(cc_flags + extra_flags, is_cuda_op)\n            + " -o""",
         """fix_cl_flags(cc_flags + " -DJIT=1 " + extra_flags, is_cuda_op)\n            + " -o""")],
    "src/utils/log.cc": [
        ("""#else
int system_popen(""", """#else
static thread_local string output_of_failure;
int system_popen("""),
        ("""    if (ret && !log_v)
        std::cerr << output;
""", "    if (ret) output_of_failure = output;\n"),
        ("""CHECKop(ret,==,0) << "Run cmd failed:" << cmd;""",
         """CHECKop(ret,==,0) << "Run cmd failed:" << cmd >> "\\n" >> output_of_failure;""")],
    "src/pyjt/numpy.cc": [
        ("fill(PyArray_CopyInto, 82);",
         "fill(PyArray_CopyInto, (PyArray_API[82] ? 82 : 50));")]}
for _name, _choice in (("conv", "fwd"), ("conv_backward_x", "bwdx"), ("conv_backward_w", "bwdw")):
    _path = f"extern/cuda/cudnn/ops/cudnn_{_name}_op"
    CORE[f"{_path}.cc"] = [(f"        if (benchmark) {{\n            {_choice}_algo_cache[",
                            f"        {{\n            {_choice}_algo_cache[")]
    CORE[f"{_path}.h"] = []  # an operator's source is looked for beside its header
GCC_15 = """#define _GLIBCXX_USE_OLD_GENERATE_CANONICAL
#include <cstdint>
#pragma GCC diagnostic ignored "-Wtemplate-body"
"""
# A type's number is at one place in NumPy 1 and 2, and its size, which is not, follows from that:
# so one build reads the arrays of both. The layout is the longer one, NumPy 2's.
NUMPY = [
    ("""    char flags;
    int type_num;
    int elsize;
    int alignment;
""", """    char former_flags;
    int type_num;
    unsigned long long flags;
    Py_ssize_t elsize;
    Py_ssize_t alignment;
"""),
    ("    size *= arr->descr->elsize;\n", "    size *= get_type_str(arr).dsize();\n")]


def replaced(text: str, replacements: list[tuple[str, str]], what: str) -> str:
    """`text` with all replacements made. Raises ToolchainError unless each is there once; `what`:
    the file, for the message."""
    for old, new in replacements:
        if text.count(old) != 1:
            raise ToolchainError(
                f"{what} is not that of Jittor {JITTOR}: "
                f"`pip install --force-reinstall --no-deps jittor=={JITTOR}`")
        text = text.replace(old, new)
    return text


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the mended source. Bytecode is neither read nor written: it would be that of the
    source as it is."""

    def get_code(self, fullname: str):
        source = replaced(self.get_source(fullname), SOURCES[fullname], self.path)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder:
    """First on sys.meta_path: finds the modules of SOURCES as ever, and has them loaded by
    _Loader."""

    @staticmethod
    def find_spec(fullname: str, path=None, target=None):
        if fullname not in SOURCES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def is_known() -> bool:
    """Whether the Jittor that is installed is the version that this module mends."""
    try:
        return importlib.metadata.version("jittor") == JITTOR
    except importlib.metadata.PackageNotFoundError:
        return False


def mend_imports() -> None:
    """Put the finder in place, once, and the source files that jittor.compiler is to compile.
    Raises ToolchainError and OSError."""
    if is_known() and _Finder not in sys.meta_path:
        for name, replacements in CORE.items():
            os.environ["packnet_mended"] = str(_mended(name, replacements))
        os.environ["packnet_files"] = " ".join(CORE)
        sys.meta_path.insert(0, _Finder)


def _mended(name: str, replacements: list[tuple[str, str]]) -> Path:
    """A folder of our cache with a mended copy of the file `name` of Jittor's package."""
    original = Path(importlib.util.find_spec("jittor").origin).parent / name
    folder = cache_folder() / f"jittor-{JITTOR}"
    text = replaced(original.read_text(), replacements, str(original))
    if not (folder / name).exists() or (folder / name).read_text() != text:
        write(folder / name, text.encode())
    return folder


def gcc_flags() -> str:
    """Compiler flags with which a g++ of today reads Jittor's sources, "" for one that needs none.
    Raises ToolchainError and OSError."""
    if gcc_version() < 15 or not is_known():
        return ""
    digest = hashlib.sha256(GCC_15.encode()).hexdigest()[:8]
    name = f"gcc15-{digest}.h"  # another text, another flag
    header = cache_folder() / f"jittor-{JITTOR}" / name
    if not header.exists():
        write(header, GCC_15.encode())
    return f'-include "{header}"'


def numpy_flags() -> str:
    """Compiler flags with which Jittor reads the arrays of NumPy 1 and 2 alike. Raises
    ToolchainError and OSError."""
    if not is_known():
        return ""
    return f'-I"{_mended("src/pyjt/numpy.h", NUMPY) / "src"}"'
