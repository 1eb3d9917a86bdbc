"""The functions of `cuda.bindings.runtime` that we call, on a device that only keeps records."""

# ruff: noqa: N802, N815 - the names are CUDA's

from types import SimpleNamespace

SUCCESS, NOT_SUPPORTED = 0, 801


class FakeRuntime:
    """Every call is appended to ``calls``; names in ``failing`` return an error instead."""

    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrL2CacheSize="l2",
        cudaDevAttrMaxPersistingL2CacheSize="persisting",
        cudaDevAttrMaxAccessPolicyWindowSize="window",
    )
    cudaLimit = SimpleNamespace(cudaLimitPersistingL2CacheSize="limit")
    cudaStreamAttrID = SimpleNamespace(cudaLaunchAttributeAccessPolicyWindow="stream window")
    cudaKernelNodeAttrID = SimpleNamespace(cudaLaunchAttributeAccessPolicyWindow="node window")
    cudaAccessProperty = SimpleNamespace(
        cudaAccessPropertyPersisting="persisting", cudaAccessPropertyNormal="normal"
    )
    cudaGraphNodeType = SimpleNamespace(cudaGraphNodeTypeKernel="kernel")
    cudaStreamCaptureStatus = SimpleNamespace(cudaStreamCaptureStatusActive="active")

    def __init__(self, l2=60, persisting=40, window=100, limit=7, failing=()):
        self.sizes = {"l2": l2, "persisting": persisting, "window": window}
        self.limit, self.failing = limit, set(failing)
        self.calls = []
        self.stream_windows = {}
        self.node_windows = {}
        self.nodes = {}  # handle -> kind, of the graph being captured

    def _code(self, name, *arguments):
        self.calls.append((name, *arguments))
        return NOT_SUPPORTED if name in self.failing else SUCCESS

    def cudaDeviceGetAttribute(self, attribute, device):
        return self._code("attribute", attribute, device), self.sizes[attribute]

    def cudaDeviceGetLimit(self, limit):
        return self._code("get", limit), self.limit

    def cudaDeviceSetLimit(self, limit, value):
        code = self._code("set", limit, value)
        if code == SUCCESS:
            self.limit = value
        return (code,)

    def cudaCtxResetPersistingL2Cache(self):
        return (self._code("reset"),)

    def cudaStreamAttrValue(self):
        return SimpleNamespace(accessPolicyWindow=SimpleNamespace())

    cudaKernelNodeAttrValue = cudaStreamAttrValue

    def cudaStreamSetAttribute(self, stream, attribute, value):
        window = value.accessPolicyWindow
        code = self._code("stream", stream, window.num_bytes)
        if code == SUCCESS:
            assert attribute == "stream window"
            self.stream_windows[stream] = window
        return (code,)

    def cudaStreamGetCaptureInfo(self, stream):
        return self._code("capture", stream), "active", 1, "graph", [], [], 0

    def cudaGraphGetNodes(self, graph, count=0):
        assert graph == "graph"
        return SUCCESS, list(self.nodes)[:count], len(self.nodes)

    def cudaGraphNodeGetType(self, node):
        return SUCCESS, self.nodes[node]

    def cudaGraphKernelNodeSetAttribute(self, node, attribute, value):
        assert attribute == "node window"
        self.node_windows[node] = value.accessPolicyWindow
        return (self._code("node", node),)


class FakeStream:
    cuda_stream = 5
