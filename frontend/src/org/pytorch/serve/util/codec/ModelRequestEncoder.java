package org.pytorch.serve.util.codec;

import io.netty.buffer.ByteBuf;
import io.netty.channel.ChannelHandler;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.WriteBufferWaterMark;
import io.netty.handler.codec.MessageToMessageEncoder;
import io.netty.handler.stream.ChunkedWriteHandler;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.pytorch.serve.util.messages.BaseModelRequest;
import org.pytorch.serve.util.messages.InputParameter;
import org.pytorch.serve.util.messages.ModelInferenceRequest;
import org.pytorch.serve.util.messages.ModelLoadModelRequest;
import org.pytorch.serve.util.messages.RequestInput;
import smartbatch.frontend.worker.BodyPieces;

/**
 * Writes a batch to a worker, bodies by reference. Stands in for TorchServe's class, which copies the batch into one
 * buffer that grows by four MiB at a time.
 *
 * <pre>
 * load:  'L' name path batch_size handler gpu envelope limit_pixels
 * batch: 'I' { id {key value}* -1 {name content_type body}* -1 }* -1
 * </pre>
 *
 * Texts and bodies have their length before them, four bytes.
 */
@ChannelHandler.Sharable
public class ModelRequestEncoder extends MessageToMessageEncoder<BaseModelRequest> {
    /** Smaller bodies are copied: a piece of its own costs more than they do. */
    private static final int BY_REFERENCE_BYTES = 8 * 1024;

    private static final int END = -1;
    private static final int BATCH_BYTES = 4 * 1024;

    /** @param preferDirect is TorchServe's; how we allocate is up to the channel. */
    public ModelRequestEncoder(boolean preferDirect) {}

    @Override
    public void handlerAdded(ChannelHandlerContext ctx) {
        ctx.channel().config().setWriteBufferWaterMark(new WriteBufferWaterMark(BodyPieces.PIECE_BYTES, 2 * BodyPieces.PIECE_BYTES));
        ctx.pipeline().addBefore(ctx.name(), "pieces", new ChunkedWriteHandler());
    }

    @Override
    protected void encode(ChannelHandlerContext ctx, BaseModelRequest request, List<Object> out) {
        ByteBuf buffer = ctx.alloc().ioBuffer(BATCH_BYTES);
        if (request instanceof ModelLoadModelRequest) {
            load((ModelLoadModelRequest) request, buffer);
        } else {
            buffer = batch(ctx, (ModelInferenceRequest) request, buffer, out);
        }
        out.add(buffer);
    }

    private static void load(ModelLoadModelRequest request, ByteBuf buffer) {
        buffer.writeByte('L');
        text(request.getModelName(), buffer);
        text(request.getModelPath(), buffer);
        buffer.writeInt(Math.max(1, request.getBatchSize()));
        // A worker that is told no handler expects the model's path here.
        text(request.getHandler() == null ? request.getModelPath() : request.getHandler(), buffer);
        buffer.writeInt(request.getGpuId());
        text(request.getEnvelope(), buffer);
        buffer.writeBoolean(request.isLimitMaxImagePixels());
    }

    private static ByteBuf batch(
            ChannelHandlerContext ctx, ModelInferenceRequest request, ByteBuf buffer, List<Object> out) {
        buffer.writeByte('I');
        for (RequestInput input : request.getRequestBatch()) {
            text(input.getRequestId(), buffer);
            for (Map.Entry<String, String> header : input.getHeaders().entrySet()) {
                text(header.getKey(), buffer);
                text(header.getValue(), buffer);
            }
            buffer.writeInt(END);
            if (!input.isCachedInBackend()) {
                for (InputParameter parameter : input.getParameters()) {
                    text(parameter.getName(), buffer);
                    text(parameter.getContentType(), buffer);
                    byte[] body = parameter.getValue();
                    buffer.writeInt(body.length);
                    if (body.length < BY_REFERENCE_BYTES) {
                        buffer.writeBytes(body);
                    } else {
                        out.add(buffer);
                        out.add(new BodyPieces(body));
                        buffer = ctx.alloc().ioBuffer(BATCH_BYTES);
                    }
                }
            }
            buffer.writeInt(END);
        }
        buffer.writeInt(END);
        return buffer;
    }

    private static void text(CharSequence text, ByteBuf buffer) {
        byte[] encoded = text == null ? new byte[0] : text.toString().getBytes(StandardCharsets.UTF_8);
        buffer.writeInt(encoded.length);
        buffer.writeBytes(encoded);
    }
}
