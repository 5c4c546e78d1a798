process M2ST_RUN {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "m2st:0.2.0"

    input:
    tuple val(meta), path(data)
    val domains

    output:
    tuple val(meta), path("${prefix}.h5ad"), emit: h5ad
    tuple val(meta), path("${prefix}.csv") , emit: csv
    tuple val(meta), path("${prefix}.html"), emit: report
    path "versions.yml"                    , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    export NUMBA_CACHE_DIR=\$PWD/.numba MPLCONFIGDIR=\$PWD/.matplotlib
    mkdir -p .numba .matplotlib

    m2st run ${data} \\
        --domains ${domains} \\
        --output ${prefix}.h5ad \\
        --csv ${prefix}.csv \\
        --jobs ${task.cpus} \\
        ${args}
    m2st report ${prefix}.h5ad --output ${prefix}.html --title ${prefix}

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        m2st: \$(m2st info | sed -n 's/^m2st *//p')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    touch ${prefix}.h5ad ${prefix}.csv ${prefix}.html

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        m2st: \$(m2st info | sed -n 's/^m2st *//p')
    END_VERSIONS
    """
}
