package org.pytorch.serve.grpcimpl;

import io.grpc.BindableService;
import io.grpc.ServerInterceptors;
import org.pytorch.serve.util.ConnectorType;
import smartbatch.frontend.Frontend;
import smartbatch.frontend.access.GrpcCalls;

/** Stands in for TorchServe's class of this name, which its ModelServer asks for what each gRPC port serves. */
public final class GRPCServiceFactory {
    private GRPCServiceFactory() {}

    /** TorchServe's service, its calls looked at first; tokens are asked for before that. */
    public static BindableService getgRPCService(ConnectorType type) {
        GrpcCalls calls = new GrpcCalls(Frontend.get().rules(), type);
        return () -> ServerInterceptors.intercept(service(type), calls);
    }

    private static BindableService service(ConnectorType type) {
        switch (type) {
            case MANAGEMENT_CONNECTOR:
                return new ManagementImpl();
            case INFERENCE_CONNECTOR:
                return new InferenceImpl();
            case OPEN_INFERENCE_CONNECTOR:
                return new OpenInferenceProtocolImpl();
            default:
                throw new IllegalArgumentException("no gRPC service for " + type);
        }
    }
}
