/* A BLAS other than OpenBLAS: the two row-major products that the extension calls, and their number of calls. */
long products;

#define PRODUCT(name, real)                                                                                            \
    void name(int order, int trans_a, int trans_b, int m, int n, int k, real alpha, const real *a, int lda,            \
              const real *b, int ldb, real beta, real *c, int ldc)                                                     \
    {                                                                                                                  \
        const int transposed = 112;                                                                                    \
        (void)order;                                                                                                   \
        __atomic_add_fetch(&products, 1, __ATOMIC_RELAXED);                                                            \
        for (int i = 0; i < m; i++)                                                                                    \
            for (int j = 0; j < n; j++) {                                                                              \
                real sum = 0;                                                                                          \
                for (int l = 0; l < k; l++)                                                                            \
                    sum += (trans_a == transposed ? a[(long)l * lda + i] : a[(long)i * lda + l]) *                     \
                           (trans_b == transposed ? b[(long)j * ldb + l] : b[(long)l * ldb + j]);                      \
                c[(long)i * ldc + j] = alpha * sum + (beta ? beta * c[(long)i * ldc + j] : 0);                         \
            }                                                                                                          \
    }

PRODUCT(cblas_sgemm, float)
PRODUCT(cblas_dgemm, double)
