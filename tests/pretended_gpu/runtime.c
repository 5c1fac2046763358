/* A CUDA runtime without a GPU: memory is the host's, streams and events are nothing, kernels are refused. */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#undef cudaGetDeviceProperties
#define MAX_BLOCKS 65536
static struct { char *at; size_t size; int device, host; } blocks[MAX_BLOCKS];
static int used_blocks;
static size_t used[64], peak[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int current;
static _Thread_local cudaError_t last;
static long stream_syncs, refused, too_much;

static cudaError_t fail(cudaError_t error) { return last = error; }
static int count(void) {
    const char *given = getenv("PRETEND_GPUS"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    int have = given ? atoi(given) : 1, seen = 0;
    if (!visible) return have;
    char copy[512], *rest = copy, *name;
    snprintf(copy, sizeof copy, "%s", visible);
    while ((name = strsep(&rest, ","))) {
        char *end;
        long number = strtol(name, &end, 10);
        if (end == name || number < 0 || number >= have) break;
        seen++;
    }
    return seen;
}
static int sm(void) { const char *given = getenv("PRETEND_SM"); return given ? atoi(given) : 90; }
static size_t total(void) {
    const char *given = getenv("PRETEND_GPU_MIB");
    return (given ? (size_t)atoll(given) : 81920) << 20;
}
static cudaError_t take(void **at, size_t size, int host) {
    *at = NULL;
    pthread_mutex_lock(&lock);
    int full = !host && used[current] + size > total();
    int slot = 0;
    while (slot < used_blocks && blocks[slot].at) slot++;
    if (slot == MAX_BLOCKS) full = 1;
    char *got = full ? MAP_FAILED : mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) { too_much++; pthread_mutex_unlock(&lock); return fail(cudaErrorMemoryAllocation); }
    if (getenv("PRETEND_POISON")) memset(got, 0xFF, size);
    blocks[slot].at = got; blocks[slot].size = size; blocks[slot].device = current; blocks[slot].host = host;
    if (slot == used_blocks) used_blocks++;
    if (!host) { used[current] += size; if (used[current] > peak[current]) peak[current] = used[current]; }
    pthread_mutex_unlock(&lock);
    *at = got;
    return cudaSuccess;
}
static cudaError_t give(void *at) {
    if (!at) return cudaSuccess;
    pthread_mutex_lock(&lock);
    for (int slot = 0; slot < used_blocks; slot++)
        if (blocks[slot].at == at) {
            munmap(at, blocks[slot].size ? blocks[slot].size : 1);
            if (!blocks[slot].host) used[blocks[slot].device] -= blocks[slot].size;
            blocks[slot].at = NULL;
            pthread_mutex_unlock(&lock);
            return cudaSuccess;
        }
    pthread_mutex_unlock(&lock);
    return fail(cudaErrorInvalidValue);
}
long pretend_stream_syncs(void) { return stream_syncs; }
long pretend_refused(void) { return refused; }
long pretend_too_much(void) { return too_much; }
size_t pretend_peak(int device) { return peak[device]; }
/* From now on every call that may report an error does: what a device-side fault leaves behind. */
static cudaError_t sticky;
void pretend_break(int error) { sticky = error; }
#define CHECK if (sticky) return fail(sticky)

cudaError_t cudaGetDeviceCount(int *n) { *n = count(); return *n ? cudaSuccess : fail(cudaErrorNoDevice); }
cudaError_t cudaGetDevice(int *device) { *device = current; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { CHECK; if (device < 0 || device >= count()) return fail(cudaErrorInvalidDevice); current = device; return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { *version = 13020; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13020; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    if (device < 0 || device >= count()) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Pretended GPU");
    p->uuid.bytes[15] = device + 1;
    p->major = sm() / 10; p->minor = sm() % 10; p->totalGlobalMem = total(); p->multiProcessorCount = 132; p->warpSize = 32;
    p->maxThreadsPerBlock = 1024; p->maxThreadsPerMultiProcessor = 2048; p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = 232448; p->sharedMemPerMultiprocessor = 233472; p->regsPerBlock = 65536;
    p->regsPerMultiprocessor = 65536; p->l2CacheSize = 50 << 20; p->pciBusID = device + 1; p->memoryBusWidth = 5120;
    p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64; p->textureAlignment = 512; p->managedMemory = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr a, int device) {
    struct cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    *value = a == cudaDevAttrComputeCapabilityMajor ? p.major : a == cudaDevAttrComputeCapabilityMinor ? p.minor : a == cudaDevAttrMultiProcessorCount ? p.multiProcessorCount
        : a == cudaDevAttrWarpSize ? 32 : a == cudaDevAttrMaxThreadsPerBlock ? 1024
        : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448 : a == cudaDevAttrMaxSharedMemoryPerBlock ? 49152 : 0;
    return error;
}
cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) { snprintf(id, length, "0000:%02x:00.0", device + 1); return cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = a != b; return cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int device, unsigned flags) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { CHECK; stream_syncs++; return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { if (least) *least = 0; if (greatest) *greatest = -5; return cudaSuccess; }
cudaError_t cudaGetLastError(void) { cudaError_t error = sticky ? sticky : last; last = cudaSuccess; return error; }
cudaError_t cudaPeekAtLastError(void) { return sticky ? sticky : last; }

cudaError_t cudaMalloc(void **at, size_t size) { CHECK; return take(at, size, 0); }
cudaError_t cudaFree(void *at) { return give(at); }
cudaError_t cudaMallocAsync(void **at, size_t size, cudaStream_t s) { return take(at, size, 0); }
cudaError_t cudaFreeAsync(void *at, cudaStream_t s) { return give(at); }
cudaError_t cudaHostAlloc(void **at, size_t size, unsigned flags) { CHECK; return take(at, size, 1); }
cudaError_t cudaMallocHost(void **at, size_t size) { CHECK; return take(at, size, 1); }
cudaError_t cudaFreeHost(void *at) { return give(at); }
cudaError_t cudaHostRegister(void *at, size_t size, unsigned flags) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void *at) { return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
    CHECK;
    *all = total(); *left = *all - used[current];
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *at) {
    memset(a, 0, sizeof *a);
    a->device = -2;
    pthread_mutex_lock(&lock);
    for (int slot = 0; slot < used_blocks; slot++)
        if (blocks[slot].at && (char *)at >= blocks[slot].at && (char *)at < blocks[slot].at + blocks[slot].size) {
            a->type = blocks[slot].host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
            a->device = blocks[slot].device;
            a->devicePointer = a->hostPointer = (void *)at;
        }
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) { CHECK; memmove(to, from, size); stream_syncs++; return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t s) { CHECK; memmove(to, from, size); return cudaSuccess; }
cudaError_t cudaMemcpyPeerAsync(void *to, int a, const void *from, int b, size_t size, cudaStream_t s) { CHECK; memmove(to, from, size); return cudaSuccess; }
cudaError_t cudaMemset(void *at, int value, size_t size) { CHECK; memset(at, value, size); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void *at, int value, size_t size, cudaStream_t s) { CHECK; memset(at, value, size); return cudaSuccess; }

static cudaStream_t new_stream(void) { static long next = 0x1000; return (cudaStream_t)(next += 16); }
cudaError_t cudaStreamCreate(cudaStream_t *s) { *s = new_stream(); return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) { *s = new_stream(); return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned flags, int priority) { *s = new_stream(); return cudaSuccess; }
cudaError_t cudaStreamDestroy(cudaStream_t s) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { CHECK; stream_syncs++; return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t s) { return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *priority) { *priority = 0; return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) { *status = cudaStreamCaptureStatusNone; return cudaSuccess; }
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *g,
                                     const cudaGraphNode_t **d, const cudaGraphEdgeData **e, size_t *n) { *status = cudaStreamCaptureStatusNone; return cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return cudaSuccess; }
static cudaError_t new_event(cudaEvent_t *e) { *e = calloc(1, sizeof(struct timespec)); return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return new_event(e); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags) { return new_event(e); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { clock_gettime(CLOCK_MONOTONIC, (struct timespec *)e); return cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags) { return cudaEventRecord(e, s); }
cudaError_t cudaEventQuery(cudaEvent_t e) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t e) { CHECK; stream_syncs++; return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b) {
    struct timespec *x = (struct timespec *)a, *y = (struct timespec *)b;
    *ms = (y->tv_sec - x->tv_sec) * 1e3f + (y->tv_nsec - x->tv_nsec) * 1e-6f;
    return cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { refused++; return fail(cudaErrorNotSupported); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { refused++; return fail(cudaErrorNotSupported); }
static int primary_state(int device, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
static int no_driver(void) { return 801; }
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version, unsigned long long flags, enum cudaDriverEntryPointQueryResult *result) {
    *f = strcmp(name, "cuDevicePrimaryCtxGetState") ? (void *)no_driver : (void *)primary_state;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}
cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
cudaError_t cudaProfilerStop(void) { return cudaSuccess; }
/* The driver's names, which torch looks up and, as no kernel is ever launched, does not call. */
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetCount(int *n) { *n = count(); return 0; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { return primary_state(device, flags, active); }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
/* For Triton, whose kernels are compiled and "loaded", but not launched. */
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 75 ? sm() / 10 : which == 76 ? sm() % 10 : which == 97 ? 232448 : which == 12 ? 65536 : which == 16 ? 132
        : which == 10 ? 32 : which == 13 ? 1980000 : which == 36 ? 2619000 : which == 37 ? 5120 : which == 1 ? 1024 : which == 39 ? 2048 : 0;
    return 0;
}
int cuCtxGetDevice(int *device) { *device = current; return 0; }
int cuCtxGetLimit(size_t *value, int which) { *value = 0; return 0; }
int cuCtxSetLimit(int which, size_t value) { return 0; }
int cuModuleLoadData(void **module, const void *image) { *module = (void *)1; return 0; }
int cuModuleLoad(void **module, const char *path) { *module = (void *)1; return 0; }
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = (void *)1; return 0; }
int cuModuleUnload(void *module) { return 0; }
int cuFuncGetAttribute(int *value, int which, void *function) { *value = which == 0 ? 1024 : which == 4 ? 32 : 0; return 0; }
int cuFuncSetAttribute(void *function, int which, int value) { return 0; }
int cuFuncSetCacheConfig(void *function, int config) { return 0; }
int cuOccupancyMaxActiveClusters(int *n, void *function, void *config) { *n = 16; return 0; }
int cuStreamIsCapturing(void *s, int *status) { *status = 0; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "a pretended GPU launches nothing"; return 0; }
int cuPointerGetAttribute(void *value, int which, unsigned long long at) { *(unsigned long long *)value = at; return 0; }
#define REFUSED(name) int name(void) { refused++; return no_driver(); }
REFUSED(cuLaunchCooperativeKernel) REFUSED(cuLaunchKernel) REFUSED(cuLaunchKernelEx) REFUSED(cuLinkAddData_v2)
REFUSED(cuLinkComplete) REFUSED(cuLinkCreate_v2)
REFUSED(cuModuleLoadDataEx) REFUSED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
REFUSED(cuTensorMapEncodeTiled) REFUSED(cuTensorMapEncodeIm2col)
