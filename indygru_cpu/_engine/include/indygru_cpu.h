/* The functions of indygru_call.h for C and C++ extensions of Python. Needs Python.h, and no library at link time.
 *
 *     indygru_api api;
 *     if (indygru_import(&api) < 0)      // once, with the GIL
 *         return NULL;                   // a Python exception is set
 *     status = api.forward(&call);       // any number of times, without the GIL
 */
#ifndef INDYGRU_CPU_H
#define INDYGRU_CPU_H

#include <Python.h>

#include "indygru_call.h"

typedef int (*indygru_function)(const indygru_call *call);

typedef struct {
    indygru_function forward, backward, step;
} indygru_api;

static inline int indygru_import_one(PyObject *functions, const char *name, indygru_function *function)
{
    PyObject *capsule = PyMapping_GetItemString(functions, name);
    void *address = capsule ? PyCapsule_GetPointer(capsule, "int (indygru_call const *)") : NULL;
    Py_XDECREF(capsule);
    *function = (indygru_function)address;
    return address ? 0 : -1;
}

/* Returns 0, or -1 with a Python exception. */
static inline int indygru_import(indygru_api *api)
{
    PyObject *module = PyImport_ImportModule("indygru_cpu.c_api");
    PyObject *functions = module ? PyObject_GetAttrString(module, "__pyx_capi__") : NULL;
    int failed = !functions || indygru_import_one(functions, "indygru_forward", &api->forward) ||
                 indygru_import_one(functions, "indygru_backward", &api->backward) ||
                 indygru_import_one(functions, "indygru_step", &api->step);
    Py_XDECREF(functions);
    Py_XDECREF(module);
    return failed ? -1 : 0;
}

#endif
