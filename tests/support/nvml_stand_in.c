/* A library with NVML's interface and two GPUs of known numbers, for machines without a driver.
 *
 * Compiled by the tests as it is (an older driver: no throttle reasons by their old name; GPU 1
 * without an energy counter and without a power permission), with -DNO_DRIVER (it does not start),
 * with -DOLD (no energy counter at all), or with -DHANGS (as for a GPU that fell off its bus, which
 * can keep a call for ever). Each reading of energy is a joule more.
 */

#include <string.h>
#include <unistd.h>

typedef struct { int index; } *device_t;
static struct { int index; } gpus[2] = {{0}, {1}};
static unsigned long long millijoules = 5000000;

int nvmlInit_v2(void) {
#ifdef NO_DRIVER
    return 9;
#else
    return 0;
#endif
}
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) {
    return code == 9 ? "Driver Not Loaded" : code == 4 ? "Insufficient Permissions"
         : code == 3 ? "Not Supported" : code == 15 ? "GPU is lost" : "Unknown Error";
}
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device_t *device) {
    *device = (device_t)&gpus[i];
    return 0;
}
int nvmlDeviceGetName(device_t device, char *name, unsigned length) {
    strncpy(name, device->index ? "second" : "first", length);
    return 0;
}
int nvmlDeviceGetUUID(device_t device, char *name, unsigned length) {
    strncpy(name, device->index ? "GPU-1" : "GPU-0", length);
    return 0;
}
int nvmlDeviceGetUtilizationRates(device_t device, unsigned *rates) {
    rates[0] = device->index ? 0 : 87;
    rates[1] = 11;
    return 0;
}
int nvmlDeviceGetPowerUsage(device_t device, unsigned *milliwatts) {
    if (device->index) return 4;
#ifdef HANGS
    for (;;) sleep(60);
#endif
    *milliwatts = 251500;
    return 0;
}
#ifndef OLD
int nvmlDeviceGetTotalEnergyConsumption(device_t device, unsigned long long *energy) {
    if (device->index) return 3;
    *energy = millijoules += 1000;
    return 0;
}
#endif
int nvmlDeviceGetClockInfo(device_t device, unsigned type, unsigned *megahertz) {
    *megahertz = type == 1 ? 1530 : type == 2 ? 877 : 1;
    return 0;
}
int nvmlDeviceGetMemoryInfo(device_t device, unsigned long long *memory) {
    memory[0] = 16ULL << 30;
    memory[2] = 9ULL << 30;
    memory[1] = memory[0] - memory[2];
    return 0;
}
int nvmlDeviceGetTemperature(device_t device, unsigned sensor, unsigned *degrees) {
    static int readings;
    if (device->index && readings++ == 1) return 15; /* once */
    *degrees = 61;
    return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(device_t device, unsigned long long *mask) {
    *mask = device->index ? 1 : 0x44;
    return 0;
}
