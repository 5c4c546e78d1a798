# Time and memory of handing counts over to Python and back, by the functions of the package:
#   Rscript benchmarks/bridge.R
# 10,000 spots x 3,000 genes, 10 % not zero, as a genes x spots dgCMatrix.

n_spots <- 10000L
n_genes <- 3000L
set.seed(1)
counts <- Matrix::rsparsematrix(
    n_genes, n_spots, density = 0.1, rand.x = function(n) as.double(rpois(n, 2) + 1)
)
bridge <- asNamespace("m2st")
python <- reticulate::import_main(convert = TRUE)
reticulate::py_run_string("
import numpy as np
from scipy import sparse

def resident():
    with open('/proc/self/status') as status:
        fields = dict(line.split(':', 1) for line in status)
    return int(fields['VmRSS'].split()[0]) / 1024

def read(request):
    data = np.frombuffer(request['data'], np.float32)
    indices = np.frombuffer(request['indices'], np.int32)
    indptr = np.frombuffer(request['indptr'], np.int32)
    return sparse.csr_matrix((data, indices, indptr), shape=request['shape'])

def take(request):
    global matrix
    matrix = read(request)
    return float(matrix.sum())

def give():
    return [bytearray(part.tobytes()) for part in (matrix.data, matrix.indices, matrix.indptr)]
")
report <- function(what, code) {
    invisible(gc())
    before <- python$resident()
    time <- system.time(value <- force(code))[["elapsed"]]
    cat(sprintf("%-12s %.3f s, %+.1f MiB resident\n", what, time, python$resident() - before))
    value
}

size <- as.numeric(utils::object.size(counts)) / 2^20
cat(sprintf(
    "%d x %d, %d not zero, %.1f MiB in R; reticulate %s\n", n_spots, n_genes, length(counts@x),
    size, utils::packageVersion("reticulate")
))
for (round in 1:3) {
    total <- report("R to Python", python$take(bridge$expressionRequest(list(counts = counts))))
    stopifnot(total == sum(counts))
    back <- report("Python to R", {
        parts <- python$give()
        methods::new(
            "dgCMatrix",
            x = readBin(parts[[1L]], "double", length(counts@x), size = 4L),
            i = readBin(parts[[2L]], "integer", length(counts@i)),
            p = readBin(parts[[3L]], "integer", length(counts@p)), Dim = dim(counts)
        )
    })
    stopifnot(identical(back@x, counts@x), identical(back@i, counts@i))
}
