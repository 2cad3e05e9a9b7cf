package smartbatch.frontend.worker;

import io.netty.buffer.ByteBuf;
import io.netty.buffer.ByteBufAllocator;
import io.netty.channel.ChannelHandlerContext;
import io.netty.handler.stream.ChunkedInput;

/**
 * A large body on its way to a worker, a piece at a time and as the worker takes them.
 *
 * <p>The kernel takes bytes from outside the heap only. A piece is copied there just before it is sent and is still in
 * the processor's cache then; a whole batch copied at once is not, and needs its size again in memory.
 */
public final class BodyPieces implements ChunkedInput<ByteBuf> {
    /** About what a Unix socket holds. */
    public static final int PIECE_BYTES = 128 * 1024;

    private final byte[] body;
    private int sent;

    /** @param body is read while it is sent: nobody may change it. */
    public BodyPieces(byte[] body) {
        this.body = body;
    }

    @Override
    public boolean isEndOfInput() {
        return sent == body.length;
    }

    @Override
    public void close() {
        // An array needs no closing.
    }

    @Override
    public ByteBuf readChunk(ByteBufAllocator allocator) {
        int length = Math.min(PIECE_BYTES, body.length - sent);
        if (length == 0) {
            return null;
        }
        ByteBuf piece = allocator.directBuffer(length).writeBytes(body, sent, length);
        sent += length;
        return piece;
    }

    @Override
    @Deprecated
    public ByteBuf readChunk(ChannelHandlerContext ctx) {
        return readChunk(ctx.alloc());
    }

    @Override
    public long length() {
        return body.length;
    }

    @Override
    public long progress() {
        return sent;
    }
}
