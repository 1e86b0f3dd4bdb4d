// libnvidia-ml.cpp: an NVML that answers with known numbers. Energy grows by 50 J each time it is asked for.
//
//   STUB_NVML=none    knows no GPU        STUB_NVML=silent    one that tells neither energy nor power nor clock
#include <cstring>

#include "driver.h"

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

static bool is(const char* what) { return stub::setting("STUB_NVML", "") == what; }

STUB_API int nvmlInit_v2() { return SUCCESS; }
STUB_API const char* nvmlErrorString(int code) { return code == NOT_FOUND ? "Not Found" : code == NOT_SUPPORTED ? "Not Supported" : "Success"; }
STUB_API int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** device) {
    static char known;
    if (is("none") || !strchr(bus, ':')) return NOT_FOUND;
    *device = &known;
    return SUCCESS;
}
STUB_API int nvmlDeviceGetTotalEnergyConsumption(void*, unsigned long long* millijoules) {
    static unsigned long long so_far = 7'000'000'000'000ull;
    if (is("silent")) return NOT_SUPPORTED;
    *millijoules = so_far += 50'000;
    return SUCCESS;
}
STUB_API int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) {
    *milliwatts = 412'500;
    return is("silent") ? NOT_SUPPORTED : SUCCESS;
}
STUB_API int nvmlDeviceGetClockInfo(void*, unsigned which, unsigned* megahertz) {
    *megahertz = which == 1 ? 1755 : 1;
    return is("silent") ? NOT_SUPPORTED : SUCCESS;
}
