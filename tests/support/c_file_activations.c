/* stdin: numbers; stdout: model_sigmoid and model_activation of each. The macros are those of c_file_steps.c. */
#include <stdio.h>
#include FILE_NAME

int main(void)
{
    static NUMBER x, results[2];
    while (fread(&x, sizeof x, 1, stdin) == 1) {
        results[0] = model_sigmoid(x);
        results[1] = model_activation(x);
        if (fwrite(results, sizeof results, 1, stdout) != 1)
            return 1;
    }
    return 0;
}
