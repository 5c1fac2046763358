/* A CUDA runtime and driver without a GPU, preloaded in front of libcudart and libcuda.
 *
 * Device memory is host memory, streams and events do nothing, and every launch of a kernel is refused: the operators'
 * kernels are replaced in Python (kernels.py). What is not defined here comes from the real libcudart (names of errors) or
 * is not needed by torch. Functions return what CUDA's documentation says of them; only what torch reads is filled in.
 *
 * Settings (environment): PRETEND_GPUS, PRETEND_GPU_MIB, PRETEND_SM, PRETEND_POISON; see settings.py.
 */
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#undef cudaGetDeviceProperties

#define VERSION 13020 /* CUDA 13.2, of runtime and driver */
#define MAX_DEVICES 64
#define MAX_BLOCKS 65536
#define MULTIPROCESSORS 132
#define SHARED_MEMORY 49152
#define SHARED_MEMORY_OPTIN 232448

typedef struct {
    char *address; /* NULL: the slot is free */
    size_t size;
    int device, on_host;
} Block;

static Block blocks[MAX_BLOCKS];
static int used_slots;
static size_t used_bytes[MAX_DEVICES], peak_bytes[MAX_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int current_device;
static _Thread_local cudaError_t last_error;
static cudaError_t sticky_error;
static long refused_launches, refused_allocations;
static void (*on_wait)(const char *function);

static cudaError_t fail(cudaError_t error) { return last_error = error; }

/* For the Python side. */
long pretended_refused_launches(void) { return refused_launches; }
long pretended_refused_allocations(void) { return refused_allocations; }
size_t pretended_peak_bytes(int device) { return peak_bytes[device]; }
/* Calls `function` with the name of each runtime function that makes the host wait; NULL: no longer. */
void pretended_on_wait(void (*function)(const char *)) { on_wait = function; }
/* From now on each call that can report an error reports this one, as after a fault inside a kernel. */
void pretended_break(int error) { sticky_error = error; }

#define CHECK_DEVICE if (sticky_error) return fail(sticky_error)
#define WAIT do { CHECK_DEVICE; if (on_wait) on_wait(__func__); } while (0)

static int setting(const char *name, int otherwise) {
    const char *given = getenv(name);
    return given && *given ? atoi(given) : otherwise;
}

/* How many devices this process sees: CUDA_VISIBLE_DEVICES ends at the first number that is none. */
static int device_count(void) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    int all = setting("PRETEND_GPUS", 1), seen = 0;
    if (!visible) return all;
    char copy[512], *rest = copy, *name;
    snprintf(copy, sizeof copy, "%s", visible);
    while ((name = strsep(&rest, ","))) {
        char *end;
        long number = strtol(name, &end, 10);
        if (end == name || number < 0 || number >= all) break;
        seen++;
    }
    return seen;
}

static int compute_capability(void) { return setting("PRETEND_SM", 90); }
static size_t total_bytes(void) { return (size_t)setting("PRETEND_GPU_MIB", 81920) << 20; }

/* ------------------------------------------------------------------------------------------------------------ memory */
static cudaError_t allocate(void **address, size_t size, int on_host) {
    CHECK_DEVICE;
    *address = NULL;
    pthread_mutex_lock(&lock);
    if (!size) size = 1;
    int slot = 0;
    while (slot < used_slots && blocks[slot].address) slot++;
    int full = slot == MAX_BLOCKS || (!on_host && used_bytes[current_device] + size > total_bytes());
    int access = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *got = full ? MAP_FAILED : mmap(NULL, size, access, flags, -1, 0);
    if (got == MAP_FAILED) {
        refused_allocations++;
        pthread_mutex_unlock(&lock);
        return fail(cudaErrorMemoryAllocation);
    }
    if (setting("PRETEND_POISON", 0)) memset(got, 0xFF, size);
    blocks[slot] = (Block){got, size, current_device, on_host};
    if (slot == used_slots) used_slots++;
    if (!on_host) {
        used_bytes[current_device] += size;
        if (used_bytes[current_device] > peak_bytes[current_device]) peak_bytes[current_device] = used_bytes[current_device];
    }
    pthread_mutex_unlock(&lock);
    *address = got;
    return cudaSuccess;
}

/* The block that an address lies in, or NULL. To be called with the lock held. */
static Block *block_of(const void *address) {
    const char *at = address;
    for (int slot = 0; slot < used_slots; slot++)
        if (blocks[slot].address && at >= blocks[slot].address && at < blocks[slot].address + blocks[slot].size)
            return &blocks[slot];
    return NULL;
}

static cudaError_t release(void *address) {
    if (!address) return cudaSuccess;
    pthread_mutex_lock(&lock);
    Block *block = block_of(address);
    int known = block && block->address == address;
    if (known) {
        munmap(address, block->size);
        if (!block->on_host) used_bytes[block->device] -= block->size;
        block->address = NULL;
    }
    pthread_mutex_unlock(&lock);
    return known ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void **address, size_t size) { return allocate(address, size, 0); }
cudaError_t cudaMallocAsync(void **address, size_t size, cudaStream_t stream) { return allocate(address, size, 0); }
cudaError_t cudaHostAlloc(void **address, size_t size, unsigned flags) { return allocate(address, size, 1); }
cudaError_t cudaMallocHost(void **address, size_t size) { return allocate(address, size, 1); }
cudaError_t cudaFree(void *address) { return release(address); }
cudaError_t cudaFreeAsync(void *address, cudaStream_t stream) { return release(address); }
cudaError_t cudaFreeHost(void *address) { return release(address); }
cudaError_t cudaHostRegister(void *address, size_t size, unsigned flags) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void *address) { return cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t *left, size_t *all) {
    CHECK_DEVICE;
    *all = total_bytes();
    *left = *all - used_bytes[current_device];
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *address) {
    memset(attributes, 0, sizeof *attributes);
    attributes->device = -2; /* cudaInvalidDeviceId: memory that CUDA does not know */
    pthread_mutex_lock(&lock);
    Block *block = block_of(address);
    if (block) {
        attributes->type = block->on_host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
        attributes->device = block->device;
        attributes->devicePointer = attributes->hostPointer = (void *)address;
    }
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
    WAIT;
    memmove(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
    CHECK_DEVICE;
    memmove(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemcpyPeerAsync(void *to, int to_device, const void *from, int from_device, size_t size, cudaStream_t stream) {
    CHECK_DEVICE;
    memmove(to, from, size);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *address, int value, size_t size) {
    CHECK_DEVICE;
    memset(address, value, size);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *address, int value, size_t size, cudaStream_t stream) { return cudaMemset(address, value, size); }

/* ----------------------------------------------------------------------------------------------------------- devices */
cudaError_t cudaGetDeviceCount(int *count) { *count = device_count(); return *count ? cudaSuccess : fail(cudaErrorNoDevice); }
cudaError_t cudaGetDevice(int *device) { *device = current_device; return cudaSuccess; }

cudaError_t cudaSetDevice(int device) {
    CHECK_DEVICE;
    if (device < 0 || device >= device_count()) return fail(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) { *version = VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = VERSION; return cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    if (device < 0 || device >= device_count()) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    strcpy(p->name, "Pretended GPU");
    p->uuid.bytes[15] = device + 1;
    p->pciBusID = device + 1;
    p->major = compute_capability() / 10;
    p->minor = compute_capability() % 10;
    p->totalGlobalMem = total_bytes();
    p->multiProcessorCount = MULTIPROCESSORS;
    p->warpSize = 32;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->maxThreadsPerMultiProcessor = 2048;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlock = SHARED_MEMORY;
    p->sharedMemPerBlockOptin = SHARED_MEMORY_OPTIN;
    p->sharedMemPerMultiprocessor = SHARED_MEMORY_OPTIN + 1024;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->textureAlignment = 512;
    p->managedMemory = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    struct cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error) return error;
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
        case cudaDevAttrWarpSize: *value = p.warpSize; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = SHARED_MEMORY; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_MEMORY_OPTIN; break;
        default: *value = 0;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, length, "0000:%02x:00.0", device + 1);
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { *can = device != peer; return cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int device, unsigned flags) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { WAIT; return cudaSuccess; }

cudaError_t cudaGetLastError(void) {
    cudaError_t error = sticky_error ? sticky_error : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return sticky_error ? sticky_error : last_error; }

/* ------------------------------------------------------------------------------------------------- streams and events */
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    static long handles = 0x1000;
    CHECK_DEVICE;
    *stream = (cudaStream_t)__atomic_add_fetch(&handles, 16, __ATOMIC_RELAXED);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) { return cudaStreamCreateWithPriority(stream, flags, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { WAIT; return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t stream) { CHECK_DEVICE; return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) { *priority = 0; return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) { CHECK_DEVICE; return cudaSuccess; }

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **dependencies, const cudaGraphEdgeData **edges,
                                     size_t *count) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    CHECK_DEVICE;
    *event = calloc(1, sizeof(struct timespec)); /* when it was recorded */
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { free(event); return cudaSuccess; }

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    CHECK_DEVICE;
    clock_gettime(CLOCK_MONOTONIC, (struct timespec *)event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecordWithFlags(event, stream, 0); }
cudaError_t cudaEventQuery(cudaEvent_t event) { CHECK_DEVICE; return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { WAIT; return cudaSuccess; }

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t first, cudaEvent_t second) {
    CHECK_DEVICE;
    struct timespec *from = (struct timespec *)first, *to = (struct timespec *)second;
    *milliseconds = (to->tv_sec - from->tv_sec) * 1e3f + (to->tv_nsec - from->tv_nsec) * 1e-6f;
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------------------------- kernels: all refused */
static cudaError_t refuse_launch(void) { refused_launches++; return fail(cudaErrorNotSupported); }

cudaError_t cudaLaunchKernel(const void *f, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
    return refuse_launch();
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *f, void **arguments) { return refuse_launch(); }
cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
cudaError_t cudaProfilerStop(void) { return cudaSuccess; }

/* ------------------------------------------------------------------------------------------------------------- driver */
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = 1;
    return 0;
}

static int not_supported(void) { return cudaErrorNotSupported; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
    int known = !strcmp(name, "cuDevicePrimaryCtxGetState");
    *function = known ? (void *)cuDevicePrimaryCtxGetState : (void *)not_supported;
    if (result) *result = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return cudaDriverGetVersion(version); }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetCount(int *count) { *count = device_count(); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuCtxGetDevice(int *device) { *device = current_device; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return cuCtxGetCurrent(context); }
int cuGetErrorString(int error, const char **text) { *text = "a pretended GPU has no such function"; return 0; }

int cuPointerGetAttribute(void *value, int attribute, unsigned long long address) {
    *(unsigned long long *)value = address;
    return 0;
}
